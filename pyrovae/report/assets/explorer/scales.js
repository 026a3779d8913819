// The plane of an entry: two directions of the code, the box that is shown, and places on the screen.

const MARGIN = { left: 38, right: 10, top: 10, bottom: 26 };

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

class Scales {
  constructor(entry, width, height) {
    this.entry = entry;
    this.width = width;
    this.height = height;
    this.uniform = false; // whether the axes are those of the normal distribution function
  }

  // the directions' numbers in the entry's list; one of them where the code has one dimension
  choose(first, second) {
    this.chosen = this.entry.latentDim > 1 ? [first, second] : [first];
    this.directions = this.chosen.map((i) => this.entry.directions[i].vector);
    const [u, v] = this.directions;
    // two axes of different kinds need not be at right angles
    this.overlap = v ? dot(u, v) : 0;
    this.low = this.chosen.map((i) => this.entry.directions[i].low);
    this.high = this.chosen.map((i) => this.entry.directions[i].high);
    if (v) this.evenOut();
    this.coordinates = this.directions.map((direction) => this.along(direction));
  }

  // one scale for both axes where their ranges are alike
  evenOut() {
    const spans = this.low.map((low, i) => this.high[i] - low);
    const largest = Math.max(...spans);
    if (largest > 2 * Math.min(...spans)) return;
    spans.forEach((span, i) => {
      this.low[i] -= (largest - span) / 2;
      this.high[i] += (largest - span) / 2;
    });
  }

  // the coordinate of every item along a direction
  along(direction) {
    const { codes, latentDim, count } = this.entry;
    const values = new Float64Array(count);
    for (let n = 0; n < count; n++) {
      for (let i = 0; i < latentDim; i++) values[n] += codes[n * latentDim + i] * direction[i];
    }
    return values;
  }

  // the code whose coordinates are these, the rest as in `base`; in float32, as the decoder takes it
  codeAt(place, base) {
    const now = this.directions.map((direction) => dot(Array.from(base), direction));
    const move = place.map((x, i) => x - now[i]);
    let steps = move;
    if (move.length === 2 && Math.abs(this.overlap) > 1e-9) {
      const scale = 1 - this.overlap ** 2;
      steps = [(move[0] - this.overlap * move[1]) / scale, (move[1] - this.overlap * move[0]) / scale];
    }
    const along = (i) => steps.reduce((sum, step, axis) => sum + step * this.directions[axis][i], 0);
    return Float32Array.from(base, (x, i) => x + along(i));
  }

  // from a coordinate to a share of the axis, and back
  share(x, axis) {
    if (this.uniform) return normalCdf(x);
    return (x - this.low[axis]) / (this.high[axis] - this.low[axis]);
  }

  coordinate(share, axis) {
    if (this.uniform) return normalQuantile(Math.min(1 - 1e-6, Math.max(1e-6, share)));
    return this.low[axis] + share * (this.high[axis] - this.low[axis]);
  }

  across(share) {
    return MARGIN.left + share * (this.width - MARGIN.left - MARGIN.right);
  }

  up(share) {
    return this.height - MARGIN.bottom - share * (this.height - MARGIN.top - MARGIN.bottom);
  }

  // the place on the screen of an item, and of a point
  pixelOf(index) {
    const first = this.share(this.coordinates[0][index], 0);
    const second = this.chosen.length > 1 ? this.share(this.coordinates[1][index], 1) : this.entry.lanes[index];
    return [this.across(first), this.up(second)];
  }

  pixelAt(place) {
    return [this.across(this.share(place[0], 0)), this.up(place.length > 1 ? this.share(place[1], 1) : 0.5)];
  }

  placeAt(x, y) {
    const first = (x - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    const second = (this.height - MARGIN.bottom - y) / (this.height - MARGIN.top - MARGIN.bottom);
    const clamped = [first, second].map((share) => Math.min(1, Math.max(0, share)));
    return this.chosen.map((_, axis) => this.coordinate(clamped[axis], axis));
  }

  ticks(axis) {
    if (this.uniform) return [0, 0.25, 0.5, 0.75, 1].map((share) => [share, String(share)]);
    const [low, high] = [this.low[axis], this.high[axis]];
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) {
      const digits = Math.max(0, -Math.floor(Math.log10(step)));
      ticks.push([this.share(k * step, axis), inWords(k * step, digits)]);
    }
    return ticks;
  }

  nameOf(axis) {
    const name = this.entry.directions[this.chosen[axis]].name;
    return this.uniform ? `Φ(${name})` : name;
  }
}
