// Pictures of items: images as pixels, and rows of numbers as marks on a line each, or as one curve.

// Items that are stored as one sheet of images, or as numbers.
class Pictures {
  constructor(stored, layout) {
    this.layout = layout;
    this.stored = stored;
    this.numbers = stored.data ? numbersFrom(stored.data, "f4") : null;
    this.scratch = document.createElement("canvas");
    this.ready = stored.sheet ? this.load(stored.sheet) : Promise.resolve();
  }

  async load(source) {
    this.sheet = new Image();
    this.sheet.src = source;
    await this.sheet.decode();
  }

  // the numbers of one item, flat and channels first, as a decoder gives them
  values(index) {
    const { entries, channels, height, width, low, high } = this.layout;
    if (this.numbers) return this.numbers.subarray(index * entries, (index + 1) * entries);
    const wide = width * this.layout.panels;
    this.scratch.width = wide;
    this.scratch.height = height;
    const context = this.scratch.getContext("2d", { willReadFrequently: true });
    const [column, row] = [index % this.stored.columns, Math.floor(index / this.stored.columns)];
    context.drawImage(this.sheet, column * wide, row * height, wide, height, 0, 0, wide, height);
    const pixels = context.getImageData(0, 0, wide, height).data;
    const values = new Float32Array(entries);
    for (let c = 0, at = 0; c < channels; c++) {
      for (let r = 0; r < height; r++) {
        for (let n = 0; n < width; n++, at++) {
          const pixel = this.layout.panels === 1 ? r * width + n : r * wide + c * width + n;
          const byte = pixels[4 * pixel + (this.layout.panels === 1 ? c : 0)];
          values[at] = low + (byte / 255) * (high - low);
        }
      }
    }
    return values;
  }
}

// A canvas that shows one item.
class Picture {
  constructor(layout, name) {
    this.layout = layout;
    this.canvas = element("canvas", { class: layout.image ? "picture pixels" : "picture", role: "img", "aria-label": name });
    this.name = name;
    if (layout.image) {
      this.canvas.width = layout.width * layout.panels;
      this.canvas.height = layout.height;
      this.pixels = new ImageData(this.canvas.width, this.canvas.height);
    }
  }

  // `beside` are the numbers of an item to compare with, where the picture has marks
  show(values, beside = null) {
    this.last = [values, beside];
    if (this.layout.image) this.showImage(values);
    else this.showNumbers(values, beside);
  }

  again() {
    if (this.last) this.show(...this.last);
  }

  clear(words) {
    this.last = null;
    this.canvas.setAttribute("aria-label", words);
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  showImage(values) {
    const { channels, height, width, low, high, panels } = this.layout;
    const data = this.pixels.data;
    const size = height * width;
    const byte = (x) => ((x - low) / (high - low)) * 255; // the array rounds and clamps
    for (let r = 0; r < height; r++) {
      for (let n = 0; n < width; n++) {
        const i = r * width + n;
        if (panels === 1) {
          for (let c = 0; c < 3; c++) data[4 * i + c] = byte(values[i + (channels < 3 ? 0 : c * size)]);
          data[4 * i + 3] = 255;
          continue;
        }
        for (let p = 0; p < panels; p++) {
          const at = 4 * (r * width * panels + p * width + n);
          data[at] = data[at + 1] = data[at + 2] = byte(values[p * size + i]);
          data[at + 3] = 255;
        }
      }
    }
    this.canvas.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  showNumbers(values, beside) {
    const { names, lows, highs, categories } = this.layout;
    const told = (x, i) => (categories && categories[i] ? inCategory(x, categories[i]) : Number.isNaN(x) ? "missing" : inWords(x));
    const width = this.canvas.clientWidth || 220;
    const few = values.length <= 40;
    const line = 22;
    const height = few ? values.length * line + 8 : 180;
    const pen = sized(this.canvas, width, height);
    const [ink, muted, accent] = ["--ink", "--muted", "--accent"].map(colourOf);
    pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    pen.textBaseline = "middle";
    if (!few) {
      const [low, high] = [Math.min(...lows), Math.max(...highs)];
      const at = (i, x) => [(i / (values.length - 1)) * (width - 2) + 1, height - 8 - ((x - low) / (high - low)) * (height - 16)];
      if (beside) drawCurve(pen, beside, at, muted, 1);
      drawCurve(pen, values, at, accent, 2);
    } else {
      const [start, end] = [Math.min(84, width * 0.32), width - 52];
      const at = (i, x) => {
        const share = (x - lows[i]) / (highs[i] - lows[i] || 1);
        return start + Math.min(1.04, Math.max(-0.04, share)) * (end - start);
      };
      values.forEach((x, i) => {
        const y = i * line + line / 2 + 4;
        pen.textAlign = "left";
        pen.fillStyle = muted;
        pen.fillText(shortened(pen, names[i], start - 10), 0, y);
        if (Number.isNaN(x) || (categories && categories[i])) {
          pen.fillStyle = Number.isNaN(x) ? muted : ink;
          pen.textAlign = "right";
          const other = beside && categories && categories[i] ? ` (${told(beside[i], i)})` : "";
          pen.fillText(shortened(pen, told(x, i) + other, width - start), width, y);
          return;
        }
        pen.fillRect(start, y - 0.5, end - start, 1);
        if (beside && !Number.isNaN(beside[i])) {
          pen.fillStyle = ink;
          pen.fillRect(at(i, beside[i]) - 1, y - 8, 2, 16);
        }
        pen.fillStyle = accent;
        pen.beginPath();
        pen.arc(at(i, x), y, 4.5, 0, 2 * Math.PI);
        pen.fill();
        pen.fillStyle = ink;
        pen.textAlign = "right";
        pen.fillText(inWords(x), width, y);
      });
    }
    const words = Array.from(values.slice(0, 20), (x, i) => `${names[i]} ${told(x, i)}`).join(", ");
    this.canvas.setAttribute("aria-label", `${this.name}: ${words}${values.length > 20 ? " and more" : ""}`);
  }
}

// a category that was seen, a whole number, or the most probable one with its probability, as 2.75 for 75 % of the third
function inCategory(x, names) {
  if (Number.isNaN(x)) return "missing";
  const code = Math.min(names.length - 1, Math.floor(x));
  const share = (x - code) / 0.999;
  return share > 0 ? `${names[code]} ${Math.round(100 * share)} %` : names[code];
}

function drawCurve(pen, values, at, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  values.forEach((x, i) => pen.lineTo(...at(i, x)));
  pen.stroke();
}

function shortened(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let kept = text;
  while (kept && pen.measureText(`${kept}…`).width > width) kept = kept.slice(0, -1);
  return `${kept}…`;
}

// the root mean square of a difference
function difference(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += (one[i] - other[i]) ** 2;
  return Math.sqrt(sum / one.length);
}
