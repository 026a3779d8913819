// The explorer: reads the page's data, makes a plane for each entry, and joins them by the chosen item.

function element(name, { text, ...attributes } = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false) made.setAttribute(key, value);
  }
  if (text !== undefined) made.textContent = text;
  made.append(...children.filter(Boolean));
  return made;
}

// a canvas of this size on the screen, as sharp as the screen is; its pen draws in the screen's own pixels
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  canvas.style.setProperty("height", `${height}px`);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

// The test items: their labels, names and pictures.
class Items {
  constructor(stored) {
    this.count = stored.count;
    this.classes = stored.classes;
    this.labels = stored.labels ? numbersFrom(stored.labels, stored.classes.length > 256 ? "u2" : "u1") : null;
    this.places = stored.places ? numbersFrom(stored.places, "f4") : null;
    this.layout = stored.layout;
    this.pictures = new Pictures(stored.pictures, stored.layout);
    this.members = stored.classes.map(() => []);
    if (this.labels) this.labels.forEach((label, n) => this.members[label].push(n));
    this.order = shuffled(this.count); // no class lies on top because it comes last
  }

  wordsOf(index) {
    const place = this.places ? this.places[index] : index;
    return [`item ${place}`, ...(this.labels ? [`label ${this.classes[this.labels[index]]}`] : [])];
  }

  nameOf(index) {
    const [item, label] = this.wordsOf(index);
    return label ? `${item} (${label})` : item;
  }
}

function shuffled(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  let state = 1;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((state / 2 ** 32) * (i + 1));
    [order[i], order[other]] = [order[other], order[i]];
  }
  return order;
}

class Explorer {
  constructor(root, data) {
    this.root = root;
    this.wanted = new Set(); // classes that stand out; none is all of them
    this.contours = true;
    this.names = true;
    this.step = "medium";
    this.items = new Items(data.items);
    this.planes = data.entries.map((entry) => new Plane(this.prepared(entry), this.items, this));
    root.querySelector(".planes").append(...this.planes.map((plane) => plane.root));
    this.voice = root.querySelector("[aria-live]");
    this.buildLegend();
    this.listen();
  }

  prepared(stored) {
    const codes = numbersFrom(stored.codes, "f4");
    const entry = { ...stored, codes, count: this.items.count };
    entry.decoder.network =
      stored.decoder.kind === "network"
        ? new NetworkDecoder(stored.decoder, stored.latentDim, stored.beside?.size)
        : new GridDecoder(stored.decoder, new Pictures(stored.decoder.pictures, this.items.layout));
    if (stored.beside) entry.beside.values = numbersFrom(stored.beside.values, "f4");
    if (stored.prior?.grid) entry.prior.grid.values = numbersFrom(stored.prior.grid.values, "f4");
    if (stored.latentDim === 1) entry.lanes = this.lanes();
    return entry;
  }

  // codes of one dimension: a lane for each class, and the items of a lane spread over its height
  lanes() {
    const { labels, classes, order, count } = this.items;
    const lanes = labels ? classes.length : 1;
    const heights = new Float64Array(count);
    order.forEach((n, rank) => {
      const spread = 0.1 + 0.8 * ((rank * 0.6180339887498949) % 1);
      heights[n] = ((labels ? lanes - 1 - labels[n] : 0) + spread) / lanes;
    });
    return heights;
  }

  buildLegend() {
    const legend = this.root.querySelector(".legend");
    const { classes, members, labels } = this.items;
    if (!labels) return legend.remove();
    classes.forEach((name, label) => {
      const mark = element("canvas", { width: "18", height: "18", "aria-hidden": "true" });
      const button = element("button", { type: "button", "aria-pressed": "false" }, [
        mark,
        element("span", { text: name }),
        element("span", { class: "count", text: members[label].length.toLocaleString("en") }),
      ]);
      button.addEventListener("click", () => {
        if (!this.wanted.delete(label)) this.wanted.add(label);
        button.setAttribute("aria-pressed", String(this.wanted.has(label)));
        this.drawAll();
      });
      legend.append(button);
    });
    this.drawLegend();
  }

  drawLegend() {
    this.root.querySelectorAll(".legend canvas").forEach((canvas, label) => {
      const ratio = window.devicePixelRatio || 1;
      const mark = markOf(label, 5.2, ratio);
      canvas.width = canvas.height = mark.width;
      canvas.getContext("2d").drawImage(mark, 0, 0);
    });
  }

  listen() {
    const tools = this.root.querySelector(".tools");
    tools.addEventListener("change", ({ target }) => {
      if (target.name === "axes") {
        for (const { scales } of this.planes) scales.uniform = target.value === "uniform";
      } else if (target.name === "step") {
        this.step = target.value;
      } else {
        this[target.name] = target.checked;
      }
      this.drawAll();
    });
    document.addEventListener("themechange", () => this.drawAll());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawAll());
  }

  drawAll() {
    this.drawLegend();
    for (const plane of this.planes) {
      plane.draw();
      plane.look();
      for (const picture of [plane.itemPicture, plane.againPicture]) picture.again();
    }
  }

  select(index) {
    if (index === null) return;
    for (const plane of this.planes) plane.showItem(index);
    this.say(`Chosen: ${this.items.nameOf(index)}.`);
  }

  tell(plane, code, found) {
    this.last = plane;
    if (document.activeElement !== plane.area) return;
    this.say(`${plane.entry.name}, code ${codeInWords(code)}. Nearest: ${this.items.nameOf(found)}.`);
  }

  // a reader that speaks is told once the cursor rests
  say(words) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.voice.textContent = words), 350);
  }
}

async function startExplorer() {
  const root = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const explorer = new Explorer(root, data);
  const sheets = [explorer.items.pictures, ...explorer.planes.map((plane) => plane.entry.decoder.network.pictures)];
  await Promise.all(sheets.map((pictures) => pictures?.ready));
  explorer.select(data.first);
  root.dataset.ready = "";
}

startExplorer();
