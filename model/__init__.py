"""The towers, the loss, the trainer and embedding; importing this loads no torch."""
