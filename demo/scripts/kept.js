// The server says which features are kept; the stars of this SAE's features and the tab's count follow, wherever they are.
const mark = () => {
  const said = element.querySelector('[data-kept]');
  if (!said) return;
  const kept = new Set(JSON.parse(said.dataset.kept).map(String));
  for (const star of document.querySelectorAll('button[data-act=keep]')) {
    const is = String(kept.has(star.dataset.feature));
    if (star.getAttribute('aria-pressed') === is) continue;
    star.setAttribute('aria-pressed', is);
    const words = star.firstChild;
    words.textContent = is === 'true' ? words.textContent.replace('☆', '★').replace('Keep', 'Kept')
                                      : words.textContent.replace('★', '☆').replace('Kept', 'Keep');
  }
  for (const tab of document.querySelectorAll('button[role=tab][data-tab-id=basket]')) {
    if (said.dataset.count === '0') tab.removeAttribute('data-count');
    else tab.dataset.count = said.dataset.count;
  }
};
let waiting;
new MutationObserver(() => { clearTimeout(waiting); waiting = setTimeout(mark, 50); })
  .observe(document.body, { childList: true, subtree: true });
mark();
