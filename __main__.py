"""`python -m unibrivl`: the same as the command `unibrivl`."""

from .cli import main

if __name__ == "__main__":
    main()
