// What leaves the page: pictures, tables, and text for the clipboard.

const PIXELS = 2;
const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "font-family", "text-anchor", "paint-order"];

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export function saveCsv(table, name) {
  const cell = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
  save(new Blob([table.map((row) => row.map(cell).join(",")).join("\n") + "\n"], { type: "text/csv" }), name);
}

/** An SVG element as an image, with the styles that the page gives it. */
function imageOf(svg) {
  const copy = svg.cloneNode(true);
  const own = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, i) => {
    const style = getComputedStyle(own[i]);
    for (const name of DRAWN) element.style.setProperty(name, style.getPropertyValue(name));
    element.removeAttribute("class");
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  return image.decode().then(() => image);
}

/** A panel's title, sentence and charts as a picture, where they stand on the page. */
export async function savePng(panel, name) {
  const place = panel.getBoundingClientRect();
  const canvas = document.createElement("canvas");
  canvas.width = PIXELS * place.width;
  canvas.height = PIXELS * place.height;
  const brush = canvas.getContext("2d");
  brush.scale(PIXELS, PIXELS);
  brush.fillStyle = getComputedStyle(panel).backgroundColor;
  brush.fillRect(0, 0, place.width, place.height);
  const seen = (element) => element.getClientRects().length > 0;
  for (const svg of [...panel.querySelectorAll("svg")].filter(seen)) {
    const box = svg.getBoundingClientRect();
    brush.drawImage(await imageOf(svg), box.left - place.left, box.top - place.top, box.width, box.height);
  }
  for (const words of [...panel.querySelectorAll("h2, .counter, .formula")].filter(seen)) {
    const style = getComputedStyle(words);
    const box = words.getBoundingClientRect();
    brush.fillStyle = style.color;
    brush.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    brush.textBaseline = "top";
    brush.fillText(words.firstChild?.textContent.trim() ?? "", box.left - place.left, box.top - place.top, box.width);
  }
  save(await new Promise((done) => canvas.toBlob(done, "image/png")), name);
}

/** Text into the clipboard; false if the browser does not allow it. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
