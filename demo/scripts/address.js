// The server says what the view shows; the address follows, so that it can be copied and opens the same view again.
const follow = () => {
  const said = element.querySelector('[data-address]');
  if (!said) return;
  const url = new URL(window.location.href);
  for (const [name, value] of Object.entries(JSON.parse(said.dataset.address))) {
    if (value === null || value === '') url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  window.history.replaceState(window.history.state, '', url);
};
follow(); // what was said before this ran
new MutationObserver(follow).observe(element, { childList: true, subtree: true, attributes: true });
