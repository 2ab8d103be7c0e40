// The data, and the state of the page.
const data = JSON.parse(document.getElementById("data").textContent);
const protocols = Object.keys(data.about.protocols);
const state = { category: 0, protocol: protocols[protocols.length - 1], tableSort: null };

function byId(id) {
  return document.getElementById(id);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function percent(metric) {
  return metric.value === null ? "n/a" : (100 * metric.value).toFixed(2);
}

function short(value) {
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
}

function current() {
  return data.categories[state.category];
}

// Thresholds start as calibrated, or in the middle of the scores where the model has none.
for (const category of data.categories) {
  const scores = category.images.map((image) => image.score);
  category.range = [Math.min(...scores), Math.max(...scores)];
  const [low, high] = category.scale;
  category.start = category.threshold || { image: (category.range[0] + category.range[1]) / 2, pixel: (low + high) / 2 };
  category.set = { ...category.start };
  category.images.forEach((image, number) => { image.number = number; });
}

function verdict(image, category = current()) {
  const called = image.score > category.set.image;
  if (called === (image.kind !== "good")) return "right";
  return called ? "alarm" : "missed";
}

// A level of a stored map stands for low + (level / 255)^2 (high - low).
function levelValue(level, category = current()) {
  const [low, high] = category.scale;
  return low + (level / 255) ** 2 * (high - low);
}

// The first level whose value is above the threshold.
function thresholdLevel(category = current()) {
  let level = 0;
  while (level < 256 && levelValue(level, category) <= category.set.pixel) level += 1;
  return level;
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Unpacks a category once: levels, matches and truth of its images, and how many pixels have each level.
async function unpack(category) {
  if (!category.unpacked) {
    category.unpacked = (async () => {
      category.counts256 = { defect: new Float64Array(256), normal: new Float64Array(256) };
      for (const image of category.images) {
        image.levels = new Uint8Array(await inflate(image.map));
        image.matched = new Uint32Array(await inflate(image.matches));
        image.inRoi = image.roi && new Uint8Array(await inflate(image.roi));
        const truth = image.truth ? new Uint8Array(await inflate(image.truth)) : null;
        if (!truth) continue;
        image.levels.forEach((level, i) => { category.counts256[truth[i] ? "defect" : "normal"][level] += 1; });
      }
    })();
  }
  return category.unpacked;
}
