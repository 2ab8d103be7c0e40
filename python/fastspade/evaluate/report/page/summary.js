// The table of categories: sortable by every column; a category's name selects it.
function columns() {
  const group = state.protocol;
  return [
    ...data.imageMetrics.map((name) => ["image", name, data.names[name]]),
    ...data.pixelMetrics.map((name) => [group, name, data.names[name]]),
    ["decisions", "true_positive_rate", "defects found"],
    ["decisions", "false_positive_rate", "false alarms"],
  ];
}

function metricCell(metric) {
  return element("td", { textContent: percent(metric), title: metric.reason });
}

function drawSummary() {
  const shown = columns();
  const order = data.categories.map((_, i) => i);
  const sort = state.tableSort;
  const value = (i) => (sort.column < 0 ? data.categories[i].name : data.categories[i].metrics[shown[sort.column][0]][shown[sort.column][1]].value);
  if (sort) {
    order.sort((a, b) => {
      const [first, second] = [value(a), value(b)];
      if (first === null || second === null) return (first === null) - (second === null); // n/a comes last
      return (first > second ? 1 : first < second ? -1 : 0) * sort.sign;
    });
  }
  const head = element("tr");
  ["category", ...shown.map((column) => column[2])].forEach((title, i) => {
    const button = element("button", { type: "button", textContent: title });
    button.addEventListener("click", () => {
      const again = state.tableSort && state.tableSort.column === i - 1;
      state.tableSort = { column: i - 1, sign: again ? -state.tableSort.sign : 1 };
      drawSummary();
      byId("summary").tHead.rows[0].cells[i].firstChild.focus();
    });
    const cell = element("th", { scope: "col" }, button);
    const direction = !sort || sort.column !== i - 1 ? "none" : sort.sign > 0 ? "ascending" : "descending";
    cell.setAttribute("aria-sort", direction);
    if (direction !== "none") button.append(sort.sign > 0 ? " ▲" : " ▼");
    head.append(cell);
  });
  byId("summary").tHead.replaceChildren(head);
  byId("summary").tBodies[0].replaceChildren(...order.map((i) => {
    const category = data.categories[i];
    const button = element("button", { type: "button", textContent: category.name });
    button.addEventListener("click", () => selectCategory(i));
    const row = element("tr", {}, element("td", {}, button), ...shown.map(([group, name]) => metricCell(category.metrics[group][name])));
    row.setAttribute("aria-current", String(i === state.category));
    return row;
  }));
  const means = shown.map(([group, name]) => (data.mean[group] ? metricCell(data.mean[group][name]) : element("td")));
  byId("summary").tFoot.replaceChildren(element("tr", {}, element("td", { textContent: "mean" }), ...means));
  byId("protocol-text").textContent = data.about.protocols[state.protocol];
}
