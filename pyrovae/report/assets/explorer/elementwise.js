// Functions of entries, by the names that the exported decoder uses: numbers first, then the function of entries.

const FUNCTIONS = {
  identity: () => (x) => x,
  abs: () => Math.abs,
  neg: () => (x) => -x,
  exp: () => Math.exp,
  expm1: () => Math.expm1,
  log: () => Math.log,
  log1p: () => Math.log1p,
  sqrt: () => Math.sqrt,
  rsqrt: () => (x) => 1 / Math.sqrt(x),
  reciprocal: () => (x) => 1 / x,
  sigmoid: () => sigmoid,
  log_sigmoid: () => (x) => -softplus(-x),
  tanh: () => Math.tanh,
  sinh: () => Math.sinh,
  cosh: () => Math.cosh,
  sin: () => Math.sin,
  cos: () => Math.cos,
  sign: () => Math.sign,
  floor: () => Math.floor,
  ceil: () => Math.ceil,
  round: () => roundHalfToEven,
  erf: () => erf,
  relu: () => (x) => (x > 0 ? x : 0),
  silu: () => (x) => x * sigmoid(x),
  mish: () => (x) => x * Math.tanh(softplus(x)),
  gelu: () => (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: () => (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  hardsigmoid: () => hardSigmoid,
  hardswish: () => (x) => x * hardSigmoid(x),
  softplus: (beta, threshold) => (x) => (beta * x > threshold ? x : softplus(beta * x) / beta),
  leaky_relu: (slope) => (x) => (x > 0 ? x : slope * x),
  elu: (alpha, scale, inputScale) => (x) => scale * (x > 0 ? x : alpha * Math.expm1(inputScale * x)),
  clamp: (low, high) => (x) => Math.min(Math.max(x, low), high),
  add: (alpha) => (a, b) => a + alpha * b,
  sub: (alpha) => (a, b) => a - alpha * b,
  rsub: (alpha) => (a, b) => b - alpha * a,
  mul: () => (a, b) => a * b,
  div: () => (a, b) => a / b,
  pow: () => (a, b) => a ** b,
  maximum: () => Math.max,
  minimum: () => Math.min,
  lt: () => (a, b) => (a < b ? 1 : 0),
  le: () => (a, b) => (a <= b ? 1 : 0),
  gt: () => (a, b) => (a > b ? 1 : 0),
  ge: () => (a, b) => (a >= b ? 1 : 0),
  eq: () => (a, b) => (a === b ? 1 : 0),
  ne: () => (a, b) => (a !== b ? 1 : 0),
  logical_and: () => (a, b) => (a && b ? 1 : 0),
  logical_or: () => (a, b) => (a || b ? 1 : 0),
  logical_not: () => (x) => (x ? 0 : 1),
  where: () => (condition, a, b) => (condition ? a : b),
  affine: () => (x, scale, shift) => x * scale + shift,
  prelu: () => (x, slope) => (x > 0 ? x : slope * x),
};

function sigmoid(x) {
  if (x >= 0) return 1 / (1 + Math.exp(-x));
  const small = Math.exp(x);
  return small / (1 + small);
}

function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

function hardSigmoid(x) {
  return Math.min(Math.max(x / 6 + 0.5, 0), 1);
}

function roundHalfToEven(x) {
  const whole = Math.round(x);
  return Math.abs(x % 1) === 0.5 && whole % 2 !== 0 ? whole - 1 : whole;
}

// the place in an array of shape `from` of each entry of an array of shape `to`, axes lined up from the last
function placesOf(from, to) {
  const count = to.reduce((a, b) => a * b, 1);
  const places = new Int32Array(count);
  let block = 1;
  let stride = 1;
  for (let axis = 1; axis <= to.length; axis++) {
    const size = to[to.length - axis];
    const own = from[from.length - axis] ?? 1;
    if (own > 1) for (let i = 0; i < count; i++) places[i] += (Math.floor(i / block) % size) * stride;
    block *= size;
    stride *= own;
  }
  return places;
}
