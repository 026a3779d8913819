// Lines that hold a share of p(z): ellipses of a normal distribution, level lines of a grid of log-densities.

// of N(mean, covariance) in two directions: the ellipse that holds `share` of it
function ellipse(mean, covariance, share) {
  const radius = Math.sqrt(-2 * Math.log(1 - share));
  const [[a, b], [, d]] = covariance;
  const first = Math.sqrt(a);
  const cross = b / first;
  const second = Math.sqrt(Math.max(0, d - cross * cross));
  const points = [];
  for (let i = 0; i <= 144; i++) {
    const [u, v] = [radius * Math.cos((i * Math.PI) / 72), radius * Math.sin((i * Math.PI) / 72)];
    points.push([mean[0] + first * u, mean[1] + cross * u + second * v]);
  }
  return points;
}

// marching squares: short pieces of the line where the grid, rows upwards, has this level
function levelLines({ count, low, high, values }, level) {
  const pieces = [];
  const place = (row, column) => [
    low[0] + ((high[0] - low[0]) * column) / (count - 1),
    low[1] + ((high[1] - low[1]) * row) / (count - 1),
  ];
  const crossing = (p, q) => {
    const [u, v] = [values[p[0] * count + p[1]], values[q[0] * count + q[1]]];
    if (u >= level === v >= level) return null;
    const share = (level - u) / (v - u);
    return place(p[0] + share * (q[0] - p[0]), p[1] + share * (q[1] - p[1]));
  };
  for (let r = 0; r + 1 < count; r++) {
    for (let c = 0; c + 1 < count; c++) {
      const corners = [[r, c], [r, c + 1], [r + 1, c + 1], [r + 1, c]];
      const found = corners.map((corner, i) => crossing(corner, corners[(i + 1) % 4])).filter(Boolean);
      for (let i = 0; i + 1 < found.length; i += 2) pieces.push([found[i], found[i + 1]]);
    }
  }
  return pieces;
}
