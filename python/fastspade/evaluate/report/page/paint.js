// Pictures: photographs with heat map, mask or ground truth over them.
const loaded = new Map();

function load(source) {
  if (!loaded.has(source)) {
    const image = new Image();
    image.src = source;
    loaded.set(source, image.decode().then(() => image));
  }
  return loaded.get(source);
}

function themeColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A canvas of the map's own size whose pixels are painted by color(level) -> [r, g, b, a].
function mapCanvas(image, color) {
  const [height, width] = image.mapSize;
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  image.levels.forEach((level, i) => pixels.data.set(color(level), 4 * i));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// The mask's edge: pixels in it with one beside them that is not.
function outlineCanvas(image, first) {
  const [height, width] = image.mapSize;
  const inside = (y, x) => y < 0 || x < 0 || y >= height || x >= width || image.levels[y * width + x] >= first;
  let i = -1;
  return mapCanvas(image, (level) => {
    i += 1;
    const [y, x] = [Math.floor(i / width), i % width];
    const edge = level >= first && !(inside(y - 1, x) && inside(y + 1, x) && inside(y, x - 1) && inside(y, x + 1));
    return edge ? [0, 255, 0, 255] : [0, 0, 0, 0];
  });
}

function overCrop(context, image, layer) {
  const { width, height } = context.canvas;
  const [top, left, high, wide] = image.crop;
  context.drawImage(layer, left * width, top * height, wide * width, high * height);
  if (wide < 0.999 || high < 0.999) { // what lies outside was not seen by the network
    context.setLineDash([4, 4]);
    context.strokeStyle = "white";
    context.strokeRect(left * width + 0.5, top * height + 0.5, wide * width - 1, high * height - 1);
    context.setLineDash([]);
  }
}

// The region of interest: what lies outside it is dimmed.
function dimOutside(context, image) {
  if (!image.inRoi) return;
  let i = -1;
  overCrop(context, image, mapCanvas(image, () => [0, 0, 0, image.inRoi[i += 1] ? 0 : 140]));
}

// Draws one test image into a canvas. layer: "photo", "heat", "mask" or "truth".
async function paint(canvas, image, layer, side) {
  const category = current();
  const photo = await load(image.src);
  const truth = layer === "truth" && image.mask ? await load(image.mask) : null;
  await unpack(category);
  const scale = side / Math.max(image.width, image.height);
  canvas.width = Math.round(image.width * scale);
  canvas.height = Math.round(image.height * scale);
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  dimOutside(context, image);
  if (layer === "heat") {
    // Colours follow the values evenly, as the colour bar says, and not the stored levels; low values let the photograph show.
    overCrop(context, image, mapCanvas(image, (level) => [...data.colors[Math.round((level / 255) ** 2 * 255)], 0.85 * level]));
    overCrop(context, image, outlineCanvas(image, thresholdLevel(category)));
  } else if (layer === "mask") {
    const first = thresholdLevel(category);
    const color = themeColor("--mask").split(" ").map(Number);
    overCrop(context, image, mapCanvas(image, (level) => (level >= first ? [...color, 215] : [0, 0, 0, 0])));
  } else if (truth) {
    context.drawImage(tinted(truth, canvas, `rgb(${themeColor("--truth")} / 0.8)`), 0, 0);
  }
}

// The white part of a mask picture in one colour, the rest transparent.
function tinted(mask, like, color) {
  const canvas = element("canvas", { width: like.width, height: like.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
  context.putImageData(pixels, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = color;
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

function cross(canvas, x, y) {
  const context = canvas.getContext("2d");
  for (const [width, color] of [[5, "black"], [2, "white"]]) {
    context.lineWidth = width;
    context.strokeStyle = color;
    context.beginPath();
    context.arc(x, y, 9, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 5 * dx, y + 5 * dy);
      context.lineTo(x + 16 * dx, y + 16 * dy);
    }
    context.stroke();
  }
}

function paintColorbar() {
  const context = byId("colorbar").getContext("2d");
  data.colors.forEach((color, i) => {
    context.fillStyle = `rgb(${color.join(" ")})`;
    context.fillRect(i, 0, 1, 1);
  });
  const [low, high] = current().scale;
  byId("colorbar-text").textContent = `heat map from ${short(low)} to ${short(high)}, one scale for all images of this category`;
}
