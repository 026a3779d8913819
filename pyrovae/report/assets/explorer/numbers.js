// Numbers: bytes from base64, float16 by hand, the normal distribution, and numbers as words.

function bytesFrom(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// little-endian on every machine: typed arrays would take the machine's own order
function numbersFrom(text, type) {
  const bytes = bytesFrom(text);
  const view = new DataView(bytes.buffer);
  if (type === "u1") return bytes;
  if (type === "u2") return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true));
  if (type === "f2") return Float32Array.from({ length: bytes.length / 2 }, (_, i) => fromHalf(view.getUint16(2 * i, true)));
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

// IEEE 754 binary16: a sign, five bits of exponent, ten of fraction
function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// a series of positive terms near zero, and further out Laplace's continued fraction of what is left
function erf(x) {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  if (size > 3) return Math.sign(x) * (1 - erfcTail(size));
  let term = size;
  let sum = size;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * size * size) / (2 * n + 1);
    sum += term;
  }
  return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * Math.exp(-size * size) * sum;
}

function erfcTail(size) {
  let fraction = size;
  for (let n = 60; n > 0; n--) fraction = size + n / 2 / fraction;
  return Math.exp(-size * size) / (fraction * Math.sqrt(Math.PI));
}

function normalCdf(x) {
  const size = Math.abs(x) / Math.SQRT2;
  const tail = size > 3 ? erfcTail(size) / 2 : (1 - erf(size)) / 2;
  return x > 0 ? 1 - tail : tail;
}

// Newton's steps on the logarithm of the smaller tail, which is concave: they cannot overshoot twice
function normalQuantile(p) {
  if (p <= 0) return -Infinity;
  if (p >= 1) return Infinity;
  if (p > 0.5) return -normalQuantile(1 - p);
  let x = -Math.sqrt(Math.max(0, -2 * Math.log(2 * p)));
  for (let i = 0; i < 20; i++) {
    const tail = normalCdf(x);
    const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
    const step = ((Math.log(tail) - Math.log(p)) * tail) / density;
    x -= step;
    if (Math.abs(step) < 1e-14 * (1 + Math.abs(x))) break;
  }
  return x;
}

function inWords(x, digits = 2) {
  if (!Number.isFinite(x)) return String(x).replace("-", "−");
  const size = Math.abs(x);
  if (size < 0.5 * 10 ** -digits) return (0).toFixed(digits);
  return (size >= 1e5 ? x.toExponential(1) : x.toFixed(digits)).replace("-", "−");
}

function codeInWords(code, most = 6) {
  const shown = Array.from(code.slice(0, most), (x) => inWords(x));
  return `(${shown.join(", ")}${code.length > most ? ", …" : ""})`;
}
