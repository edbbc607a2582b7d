// An element with data-act hands all its data on; one with data-copy puts that, or the address, on the clipboard.
const acting = (event) => event.target.closest('[data-act], [data-copy]');
const numeric = (text) => (/^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text);
element.addEventListener('click', (event) => {
  const found = acting(event);
  if (!found) return;
  if ('copy' in found.dataset) {
    navigator.clipboard?.writeText(found.dataset.copy || window.location.href);
    const words = found.textContent;
    found.textContent = 'Copied';
    setTimeout(() => { found.textContent = words; }, 1200);
    return;
  }
  trigger('click', Object.fromEntries(Object.entries(found.dataset).map(([key, text]) => [key, numeric(text)])));
});
// What looks like a button answers to the keys of one; arrows go along a row of tokens.
element.addEventListener('keydown', (event) => {
  const found = acting(event);
  if (!found || found.tagName === 'BUTTON') return;
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); found.click(); return; }
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const row = [...found.parentElement.querySelectorAll('[data-act][tabindex]')];
  const next = row[row.indexOf(found) + step];
  if (next) { event.preventDefault(); found.tabIndex = -1; next.tabIndex = 0; next.focus(); }
});
// What is drawn anew under the focus gets it back: arrows go on along a text after each look at a token.
let held = '';
document.addEventListener('focusin', ({ target }) => {
  const found = element.contains(target) && acting({ target });
  const names = found ? ['act', 'token', 'feature'].filter((name) => name in found.dataset) : [];
  held = names.map((name) => `[data-${name}="${CSS.escape(found.dataset[name])}"]`).join('');
});
new MutationObserver(() => {
  if (held && document.activeElement === document.body) element.querySelector(held)?.focus({ preventScroll: true });
}).observe(element, { childList: true, subtree: true });
