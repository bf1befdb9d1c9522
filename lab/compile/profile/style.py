"""How the page looks, and the few lines that sort its tables."""

STYLE = """
:root { --ink: #1e293b; --soft: #64748b; --line: #e2e8f0; --wash: #f8fafc; --accent: #2563eb; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e2e8f0; --soft: #94a3b8; --line: #334155; --wash: #1e293b; --accent: #60a5fa; --paper: #0f172a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 36px 64px; max-width: 1320px; color: var(--ink); background: var(--paper);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 36px 0 14px; padding-top: 18px; border-top: 2px solid var(--line); }
h3 { font-size: 14px; margin: 26px 0 8px; }
.sub { color: var(--soft); margin: 4px 0 0; }
.warning { background: #fef3c7; color: #78350f; border-left: 4px solid #d97706; padding: 8px 14px; margin: 14px 0 0; }
nav { margin: 18px 0 0; } nav a { color: var(--accent); margin-right: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 10px; }
.tile { background: var(--wash); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
.label, .hint { color: var(--soft); font-size: 12px; }
.value { font-size: 18px; white-space: nowrap; font-weight: 600; font-variant-numeric: tabular-nums; }
.plot { margin-top: 20px; border: 1px solid var(--line); border-radius: 6px; padding: 10px; }
.caption { color: var(--soft); font-size: 12px; margin: 8px 0 0; max-width: 900px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 0 44px;
  align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-size: 12px; font-weight: 600; color: var(--soft); white-space: nowrap;
  border-bottom: 2px solid var(--line); }
table.kernels th { cursor: pointer; }
th, td { padding: 5px 9px; vertical-align: top; }
td { border-bottom: 1px solid var(--line); }
tbody tr:hover { background: var(--wash); }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.name { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 11px; }
.naive { color: #dc2626; font-weight: 700; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
.bar { display: inline-block; min-width: 72px; padding: 0 4px; background: linear-gradient(to right,
  color-mix(in srgb, var(--accent) 28%, transparent) calc(var(--share) * 100%), transparent 0); border-radius: 2px; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, "DejaVu Sans", sans-serif; }
svg .grid { stroke: var(--line); } svg .tick { fill: var(--soft); } svg .axis, svg .legend { fill: var(--ink); }
svg polyline.roof { fill: none; stroke: var(--ink); stroke-width: 2; } svg polyline.dashed { stroke-dasharray: 6 5;
  stroke: var(--soft); } svg text.roof { fill: var(--soft); }
svg circle { fill-opacity: 0.72; stroke: var(--paper); stroke-width: 1; }
svg .rank { fill: #fff; font-size: 11px; font-weight: 700; pointer-events: none; paint-order: stroke;
  stroke: rgb(15 23 42 / 55%); stroke-width: 2px; }
@media print { body { max-width: none; padding: 0; } .plot, tr { break-inside: avoid; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.kernels")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const key = row => row.cells[column].textContent.replace(/[,%]/g, "").trim();
    const down = head.dataset.down !== "yes";
    heads.forEach(each => delete each.dataset.down);
    head.dataset.down = down ? "yes" : "no";
    const compare = (a, b) => {
      const [x, y] = [Number(key(a)), Number(key(b))];
      const order = Number.isNaN(x) || Number.isNaN(y) ? key(b).localeCompare(key(a)) : y - x;
      return down ? order : -order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}
"""
