// One image at large, and for every place in it the normal image and the place it was matched to.
const DETAIL_SIDE = 560;
const detail = { image: null, row: 0, column: 0 };

function openDetail(image) {
  const [rows, columns] = image.grid;
  Object.assign(detail, { image, ...peak(image, rows, columns) });
  byId("detail-title").textContent = image.name;
  if (!byId("detail").open) byId("detail").showModal();
  byId("detail-test").focus();
  drawDetail();
}

// The place where the map is highest: the first thing to ask about.
function peak(image, rows, columns) {
  let best = 0;
  image.levels.forEach((level, i) => { if (level > image.levels[best]) best = i; });
  const [height, width] = image.mapSize;
  return {
    row: Math.floor((Math.floor(best / width) + 0.5) / height * rows),
    column: Math.floor((best % width + 0.5) / width * columns),
  };
}

async function drawDetail() {
  const { image, row, column } = detail;
  const category = current();
  const canvas = byId("detail-test");
  const layer = document.querySelector("input[name=layer]:checked").value;
  const [rows, columns] = image.grid;
  const flat = image.matched[row * columns + column];
  const [normalRows, normalColumns] = image.normalGrid;
  const place = flat % (normalRows * normalColumns);
  const number = Math.floor(flat / (normalRows * normalColumns));
  const normal = category.normals[number];
  const [height, width] = image.mapSize;
  const level = image.levels[Math.floor((row + 0.5) / rows * height) * width + Math.floor((column + 0.5) / columns * width)];
  const value = levelValue(level, category);
  const rank = image.neighbors.indexOf(number) + 1;
  byId("normal-name").textContent = `Matched normal image ${normal.name}`;
  canvas.setAttribute("aria-label", `Test image ${image.name}, place ${column}, ${row} of ${columns} by ${rows}`);
  byId("detail-normal").setAttribute("aria-label", `Normal image ${normal.name}, place ${place % normalColumns}, ${Math.floor(place / normalColumns)}`);
  byId("match").textContent = `Place (${column}, ${row}) of ${columns} x ${rows}: map value ${short(value)}, ${
    value > category.set.pixel ? "above" : "not above"} the mask threshold ${short(category.set.pixel)}. Nearest: ${normal.name}, place (${
    place % normalColumns}, ${Math.floor(place / normalColumns)}), number ${rank} of its ${image.neighbors.length} nearest normal images.`;
  const stale = () => detail.image !== image || detail.row !== row || detail.column !== column; // then a later call draws
  await paint(canvas, image, layer, DETAIL_SIDE);
  if (stale()) return;
  crossAt(canvas, image, row, column);
  const other = byId("detail-normal");
  const photo = await load(normal.src);
  if (stale()) return;
  const scale = DETAIL_SIDE / Math.max(normal.width, normal.height);
  other.width = Math.round(normal.width * scale);
  other.height = Math.round(normal.height * scale);
  other.getContext("2d").drawImage(photo, 0, 0, other.width, other.height);
  crossAt(other, { ...normal, grid: image.normalGrid }, Math.floor(place / normalColumns), place % normalColumns);
}

function crossAt(canvas, image, row, column) {
  const [top, left, high, wide] = image.crop;
  const [rows, columns] = image.grid;
  cross(canvas, (left + (column + 0.5) / columns * wide) * canvas.width, (top + (row + 0.5) / rows * high) * canvas.height);
}

function pickPlace(event) {
  const { image } = detail;
  const box = byId("detail-test").getBoundingClientRect();
  const [top, left, high, wide] = image.crop;
  const [rows, columns] = image.grid;
  const x = ((event.clientX - box.left) / box.width - left) / wide;
  const y = ((event.clientY - box.top) / box.height - top) / high;
  movePlace(Math.floor(y * rows), Math.floor(x * columns));
}

function movePlace(row, column) {
  const [rows, columns] = detail.image.grid;
  detail.row = Math.min(rows - 1, Math.max(0, row)); // outside the crop: the nearest place the network saw
  detail.column = Math.min(columns - 1, Math.max(0, column));
  drawDetail();
}

function step(offset) {
  const at = shownImages.indexOf(detail.image);
  if (shownImages.length) openDetail(shownImages[(at + offset + shownImages.length) % shownImages.length]);
}

byId("detail-test").addEventListener("click", pickPlace);
byId("detail-test").addEventListener("keydown", (event) => {
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!move) return;
  event.preventDefault();
  const by = event.shiftKey ? 5 : 1;
  movePlace(detail.row + by * move[0], detail.column + by * move[1]);
});
byId("layers").addEventListener("change", drawDetail);
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("close", () => {
  const card = [...document.querySelectorAll(".card")].find((one) => one.image === detail.image);
  if (card) card.focus();
});
