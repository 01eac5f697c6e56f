"""The style and the script of all pages."""

STYLE = """
:root{color-scheme:light dark;--back:#fff;--ink:#1c2024;--soft:#5d6671;--line:#dfe3e8;--panel:#f6f7f9;--link:#2456a6;
--train:#3b6fb6;--val:#c8601c;
--run:#9db9dd;--good:#1a7f45;--bad:#b3261e;--warn:#8a5a00;--mark:#fff1b8;--heat:59,111,182}
@media (prefers-color-scheme:dark){:root{--back:#14171b;--ink:#e4e7eb;--soft:#9aa4af;--line:#313840;--panel:#1c2127;
--link:#8ab4f8;--train:#7fb0f2;
--val:#f0a063;--run:#40628f;--good:#63c48b;--bad:#ff8a80;--warn:#e0b050;--mark:#4d4417;--heat:90,140,215}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1360px;margin:0 auto;padding:18px 20px 60px}
h1{font-size:22px;margin:4px 0 6px;overflow-wrap:anywhere}
h2{font-size:17px;margin:30px 0 10px;padding-bottom:4px;border-bottom:1px solid var(--line)}
h3{font-size:15px;margin:14px 0 4px;overflow-wrap:anywhere}
a{color:var(--link)}
p{margin:6px 0}
.note{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.state{display:inline-block;padding:1px 9px;border-radius:10px;border:1px solid currentColor;font-size:13px;
vertical-align:2px;white-space:nowrap}
.running{color:var(--link)}.done{color:var(--good)}.stopped{color:var(--warn)}.failed{color:var(--bad)}
.message{border-left:4px solid currentColor;padding:4px 10px;overflow-wrap:anywhere}
.message.failed,.message.stopped{background:var(--panel)}
.wide{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:14px;margin:6px 0}
th,td{padding:4px 10px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}
.facts th{color:var(--soft);font-weight:400;white-space:nowrap}
.facts td{overflow-wrap:anywhere;min-width:120px}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td pre{margin:0;max-height:180px;overflow:auto;white-space:pre}
pre,code{font:12.5px/1.45 ui-monospace,SFMono-Regular,Consolas,"Liberation Mono",monospace}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px;overflow-x:auto;margin:6px 0;
white-space:pre-wrap;overflow-wrap:anywhere}
.config{white-space:pre;overflow-wrap:normal}
mark{background:var(--mark);color:inherit}
details{margin:8px 0}
summary{cursor:pointer;color:var(--link)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:14px;align-items:start}
figure{margin:0}
figure.curves{position:relative;border:1px solid var(--line);border-radius:8px;padding:8px 10px}
figcaption{font-size:13px;overflow-wrap:anywhere}
figcaption span{display:inline-block;margin-left:12px;color:var(--soft)}
figcaption i{display:inline-block;width:16px;height:3px;margin-right:5px;vertical-align:4px;background:currentColor}
svg{display:block;width:100%;height:auto;touch-action:pan-y}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.axes line{stroke:var(--line)}
polyline{fill:none;stroke:currentColor;stroke-width:1.5;stroke-linejoin:round}
svg circle{fill:currentColor}
g.run polyline{stroke-width:1}
svg .run,i.run,.run>i{color:var(--run)}
svg .train,i.train,.train>i{color:var(--train)}svg .val,i.val,.val>i{color:var(--val)}
svg .c0,i.c0,.c0>i{color:#3b6fb6}svg .c1,i.c1,.c1>i{color:#d9722e}svg .c2,i.c2,.c2>i{color:#3a9a5b}
svg .c3,i.c3,.c3>i{color:#c0417f}
svg .c4,i.c4,.c4>i{color:#8b6fd0}svg .c5,i.c5,.c5>i{color:#a3852a}svg .c6,i.c6,.c6>i{color:#2f9aa8}
svg .c7,i.c7,.c7>i{color:#888f98}
svg circle.best{fill:none;stroke:var(--ink);stroke-width:1.8}
.gap{stroke:var(--bad);stroke-width:1.5;fill:none}
.pointer line{stroke:var(--soft);stroke-dasharray:3 3}
.tip{position:absolute;pointer-events:none;z-index:2;background:var(--back);border:1px solid var(--line);border-radius:6px;
padding:5px 9px;font-size:12.5px;
box-shadow:0 2px 8px rgba(0,0,0,.25);max-width:90%;overflow-wrap:anywhere}
.tip i{display:inline-block;width:9px;height:9px;border-radius:5px;margin-right:6px;background:currentColor}
.strip{display:flex;gap:12px;overflow-x:auto;padding:4px 0 10px;align-items:flex-start}
.strip figure{flex:0 0 auto;max-width:min(88vw,640px)}
.strip img,.picture{max-width:100%;max-height:420px;height:auto;background:#fff;border:1px solid var(--line);cursor:zoom-in;
display:block}
.strip figure.whole{max-width:none}
.strip .whole img,.whole .picture{max-width:none;max-height:none;cursor:zoom-out}
.strip pre{max-height:420px;overflow:auto;margin:0;max-width:min(88vw,640px)}
.strip .wide{max-height:420px;overflow:auto}
.confusion td,.confusion th{padding:3px 7px;border:1px solid var(--line);text-align:right;font-variant-numeric:tabular-nums;
font-size:13px}
.confusion th{color:var(--soft);font-weight:400;white-space:nowrap;max-width:140px;overflow:hidden;text-overflow:ellipsis}
.confusion td.zero{color:var(--soft)}
.h1{background:rgba(var(--heat),.10)}.h2{background:rgba(var(--heat),.2)}.h3{background:rgba(var(--heat),.3)}
.h4{background:rgba(var(--heat),.4)}
.h5{background:rgba(var(--heat),.5)}.h6{background:rgba(var(--heat),.6)}.h7{background:rgba(var(--heat),.7)}
.runs{width:100%}
.runs th{cursor:pointer}
.runs th[aria-sort=ascending]::after{content:" \\2191"}.runs th[aria-sort=descending]::after{content:" \\2193"}
.runs tbody tr:hover{background:var(--panel)}
.runs td{white-space:nowrap}
.runs td:first-child{min-width:230px;white-space:normal;overflow-wrap:break-word}
.told{display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden;max-width:560px}
#lost{position:fixed;bottom:0;left:0;right:0;margin:0;padding:8px 20px;background:var(--bad);color:var(--back);
text-align:center}
@media (max-width:560px){main{padding:12px 12px 40px}h1{font-size:19px}th,td{padding:4px 7px}}
"""

SCRIPT = """
"use strict";
(function () {
  var SVG = "http://www.w3.org/2000/svg", sorted = null;

  // Curves: a line at the pointer, and the value of each curve that is next to it.
  function shape(tag, attributes) {
    var made = document.createElementNS(SVG, tag);
    Object.keys(attributes).forEach(function (name) { made.setAttribute(name, attributes[name]); });
    return made;
  }
  function nearest(steps, step) {
    var low = 0, high = steps.length - 1;
    while (high - low > 1) {
      var middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle; else high = middle;
    }
    return Math.abs(steps[high] - step) < Math.abs(steps[low] - step) ? high : low;
  }
  function point(figure, event) {
    var d = figure.plotted || (figure.plotted = JSON.parse(figure.querySelector("script").textContent));
    var svg = figure.querySelector("svg"), tip = figure.querySelector(".tip"), layer = figure.querySelector(".pointer");
    var box = svg.getBoundingClientRect(), inner = d.width - d.left - d.right;
    var share = ((event.clientX - box.left) / box.width * d.width - d.left) / inner;
    var step = d.first + Math.min(Math.max(share, 0), 1) * (d.last - d.first);
    layer.textContent = ""; tip.textContent = "";
    function x(at) { return d.left + (at - d.first) / Math.max(d.last - d.first, 1) * inner; }
    var close = null;
    d.curves.forEach(function (curve) {
      var i = nearest(curve.steps, step), value = parseFloat(curve.texts[i]);
      if (close === null || Math.abs(curve.steps[i] - step) < Math.abs(close - step)) close = curve.steps[i];
      var line = document.createElement("div"), dot = document.createElement("i");
      dot.className = curve.color;
      var when = " \\u00b7 step " + curve.steps[i] + (curve.epochs[i] ? ", epoch " + curve.epochs[i] : "");
      line.append(dot, curve.name + ": " + curve.texts[i] + when);
      tip.append(line);
      if (!isFinite(value)) return;
      var up = (value - d.low) / (d.high - d.low);
      if (d.log) up = Math.log(Math.max(value, d.low) / d.low) / Math.log(d.high / d.low);
      var y = d.height - d.bottom - up * (d.height - d.top - d.bottom);
      layer.append(shape("circle", {"class": curve.color, cx: x(curve.steps[i]), cy: y, r: 3.5}));
    });
    if (close === null) return;
    layer.prepend(shape("line", {x1: x(close), x2: x(close), y1: d.top, y2: d.height - d.bottom}));
    tip.hidden = false;
    var frame = figure.getBoundingClientRect(), left = event.clientX - frame.left + 14;
    if (left + tip.offsetWidth > frame.width - 4) left = Math.max(4, event.clientX - frame.left - tip.offsetWidth - 14);
    tip.style.left = left + "px";
    tip.style.top = Math.max(4, event.clientY - frame.top - tip.offsetHeight - 12) + "px";
  }
  function hide() {
    document.querySelectorAll(".tip").forEach(function (tip) { tip.hidden = true; });
    document.querySelectorAll(".pointer").forEach(function (layer) { layer.textContent = ""; });
  }
  function over(event) {
    var svg = event.target.closest ? event.target.closest("figure.curves svg") : null;
    if (svg === null) { hide(); return; }
    document.querySelectorAll(".tip").forEach(function (tip) { if (!svg.parentNode.contains(tip)) tip.hidden = true; });
    point(svg.parentNode, event);
  }
  document.addEventListener("pointermove", over);
  document.addEventListener("pointerdown", over);

  // Pictures: a click shows one in its own size.
  document.addEventListener("click", function (event) {
    var target = event.target;
    if (target.tagName === "IMG") target.closest("figure").classList.toggle("whole");
    if (target.tagName === "TH" && target.closest("table.runs")) {
      var column = target.cellIndex;
      sorted = {column: column, down: sorted && sorted.column === column ? !sorted.down : target.dataset.first === "down"};
      sort();
    }
  });

  // The list of runs: a click on a column sorts by it; rows without a value come last.
  function sort() {
    if (sorted) document.querySelectorAll("table.runs").forEach(arrange);
  }
  function arrange(table) {
    var body = table.tBodies[0], rows = Array.from(body.rows);
    function key(row) { return row.cells[sorted.column].dataset.sort || ""; }
    var numbers = rows.every(function (row) { var k = key(row); return k === "" || !isNaN(Number(k)); });
    rows.sort(function (a, b) {
      var one = key(a), other = key(b);
      if (one === "" || other === "") return (one === "") - (other === "");
      var order = numbers ? Number(one) - Number(other) : one.localeCompare(other, undefined, {numeric: true});
      return sorted.down ? -order : order;
    });
    rows.forEach(function (row) { body.append(row); });
    Array.from(table.tHead.rows[0].cells).forEach(function (cell, i) {
      if (i === sorted.column) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  // A served page asks whether it has changed, and then renews what it shows; what was opened stays open.
  var body = document.body, address = body.dataset.address, version = body.dataset.version, lost = document.getElementById("lost");
  function renew(page) {
    var fresh = new DOMParser().parseFromString(page, "text/html"), open = {}, moved = {};
    document.querySelectorAll("details[open]").forEach(function (part) { open[part.dataset.name] = true; });
    document.querySelectorAll(".strip").forEach(function (part) { moved[part.dataset.name] = part.scrollLeft; });
    fresh.querySelectorAll("details").forEach(function (part) { if (open[part.dataset.name]) part.open = true; });
    document.querySelector("main").replaceWith(document.adoptNode(fresh.querySelector("main")));
    document.querySelectorAll(".strip").forEach(function (part) { part.scrollLeft = moved[part.dataset.name] || 0; });
    document.title = fresh.title;
    version = fresh.body.dataset.version;
    sort();
  }
  function ask() {
    if (document.hidden) { setTimeout(ask, 2000); return; }
    var begin = Date.now(), resting = document.querySelector(".tip:not([hidden])") === null;
    fetch(address).then(function (answer) { return answer.json(); }).then(function (now) {
      lost.hidden = true;
      if (now.version === version || !resting) return null;
      return fetch(location.pathname).then(function (answer) { return answer.text(); }).then(renew);
    }).catch(function () { lost.hidden = false; }).then(function () {
      setTimeout(ask, Math.max(2000, 10 * (Date.now() - begin)));  // a page that takes long to make is asked for less often
    });
  }
  if (address) setTimeout(ask, 2000);
})();
"""
