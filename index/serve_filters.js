// The filters of a search: rows of column, comparison and value, told to the server as `labels=Dog`.

const OPS = {
  words: [["=", "is"], ["!=", "is not"]],
  number: [[">=", "at least"], ["<=", "at most"]],
  text: [["~", "contains"]],
};
const NAMES = { labels: "label", split: "part", duration_s: "length (s)", start_ms: "begin (ms)", media_id: "video", caption: "caption" };

export class Filters {
  /** `columns` as the server tells them: `{name: {kind: "words" | "number" | "text", values: [{value, count}]}}`. */
  constructor(list, changed) {
    this.list = list;
    this.changed = changed;
    this.columns = {};
  }

  get conditions() {
    const rows = [...this.list.children].map((row) => ({
      column: row.querySelector(".column").value,
      op: row.querySelector(".op").value,
      value: row.querySelector(".value").value.trim(),
    }));
    return rows.filter((row) => row.value !== "").map((row) => `${row.column}${row.op}${row.value}`);
  }

  set conditions(texts) {
    this.list.replaceChildren();
    for (const text of texts) {
      const found = /^(\w+?)(!=|>=|<=|=|~)(.*)$/.exec(text);
      if (found) this.add(found[1], found[2], found[3]);
    }
  }

  add(column = Object.keys(this.columns)[0], op = null, value = "") {
    const row = document.getElementById("condition-template").content.cloneNode(true).firstElementChild;
    const [columns, ops, input] = [".column", ".op", ".value"].map((name) => row.querySelector(name));
    columns.replaceChildren(...Object.keys(this.columns).map((name) => new Option(NAMES[name] ?? name, name)));
    if (!(column in this.columns)) columns.append(new Option(column, column));
    columns.value = column;
    this.fit(row, op);
    input.value = value;
    columns.addEventListener("change", () => {
      this.fit(row, null);
      input.value = "";
      this.changed();
    });
    ops.addEventListener("change", () => input.value && this.changed());
    input.addEventListener("change", () => this.changed());
    row.querySelector(".remove").addEventListener("click", () => {
      row.remove();
      this.changed();
    });
    this.list.append(row);
    return row;
  }

  fit(row, op) {
    const name = row.querySelector(".column").value;
    const { kind, values } = this.columns[name] ?? { kind: "words", values: [] };
    const ops = OPS[kind];
    row.querySelector(".op").replaceChildren(...ops.map(([value, told]) => new Option(told, value)));
    row.querySelector(".op").value = ops.some(([value]) => value === op) ? op : ops[0][0];
    const input = row.querySelector(".value");
    input.inputMode = kind === "number" ? "decimal" : "text";
    input.setAttribute("list", `values-${name}`);
    if (!document.getElementById(`values-${name}`) && values?.length) {
      const choices = document.createElement("datalist");
      choices.id = `values-${name}`;
      choices.append(...values.map(({ value, count }) => new Option(`${count}`, value)));
      document.body.append(choices);
    }
  }
}
