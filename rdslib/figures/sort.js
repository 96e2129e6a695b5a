/* Makes tables sortable: a click on a column's head, or Enter there, sorts by it, then backwards, then not at
   all. Numbers are sorted as numbers, and what is missing comes last. Rows that are set apart (a group's name in
   bold, a total) stay in their places. Text is read and rows are moved; nothing is made of what a cell says. */
(() => {
  if (window.rdsSortable) return;
  window.rdsSortable = true;
  const TABLES = ".rds table, .sortable table, .md-typeset table:not([class])";
  const SIZES = { "": 1, "%": 1, k: 1e3, M: 1e6 };

  const style = document.createElement("style");
  style.textContent = `
    .rds-sort { all: unset; cursor: pointer; }
    .rds-sort:focus-visible { outline: 2px solid; outline-offset: 2px; }
    .rds-sort::after { content: "\\2195"; opacity: .45; margin-left: .3em; font-size: .8em; font-weight: normal; }
    [aria-sort] > .rds-sort::after { opacity: 1; }
    [aria-sort=ascending] > .rds-sort::after { content: "\\2191"; }
    [aria-sort=descending] > .rds-sort::after { content: "\\2193"; }
    @media print { .rds-sort::after { content: none; } }`;
  document.head.append(style);

  /* A cell's text without its small print, and the number that it begins with; null if it is missing. */
  const read = cell => {
    const text = [...cell.childNodes].filter(node => node.nodeName !== "SMALL").map(node => node.textContent);
    const words = text.join("").trim();
    if (/^(|[-\u2013\u2014]|nan|missing|unknown|not run( yet)?|n too small)$/i.test(words)) return null;
    const found = /^([+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)([kM%]?)(?![\w.])/.exec(words.replace("\u2212", "-"));
    return { words, number: found ? found[1].replaceAll(",", "") * SIZES[found[2]] : NaN };
  };
  /* Numbers before words. */
  const compare = (a, b) =>
    isNaN(a.number) - isNaN(b.number) ||
    (isNaN(a.number) ? a.words.localeCompare(b.words, undefined, { numeric: true }) : a.number - b.number);
  const fixed = row =>
    row.cells[0].querySelector("strong") !== null || row.cells[0].textContent.trim() === "Total";

  const sort = head => {
    const table = head.closest("table"), column = head.cellIndex;
    const next = { ascending: "descending", descending: "none" }[head.ariaSort] ?? "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    if (next !== "none") head.ariaSort = next;
    for (const body of table.tBodies) {
      const rows = [...body.rows];
      rows.forEach((row, place) => (row.rdsPlace ??= place));
      rows.sort((a, b) => a.rdsPlace - b.rdsPlace);
      for (let start = 0, end; start < rows.length; start = end + 1) {
        for (end = start; end < rows.length && !fixed(rows[end]); ) end++;
        const part = rows.slice(start, end).map(row => ({ row, key: read(row.cells[column]) }));
        const way = next === "descending" ? -1 : 1;
        const order = (a, b) => (a.key && b.key ? way * compare(a.key, b.key) : !a.key - !b.key);
        rows.splice(start, part.length, ...(next === "none" ? part : part.sort(order)).map(each => each.row));
      }
      body.append(...rows);
    }
  };

  /* A head's words, but for its small print, go into a button, which keys and screen readers know. */
  const prepare = () => {
    for (const head of document.querySelectorAll(`:is(${TABLES}) > thead > tr:first-child > th`)) {
      if (head.querySelector(".rds-sort") || !head.textContent.trim() || head.colSpan > 1) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "rds-sort";
      button.append(...[...head.childNodes].filter(node => node.nodeName !== "SMALL"));
      button.addEventListener("click", () => sort(head));
      head.prepend(button);
    }
  };
  /* Tables that come later, as those of widgets do, are met before they can be clicked on. */
  for (const event of ["DOMContentLoaded", "pointerover", "focusin"]) document.addEventListener(event, prepare);
  prepare();
})();
