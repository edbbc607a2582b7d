// The server says what the view shows; the address follows, so that it can be copied and opens the same view again.
new MutationObserver(() => {
  const said = element.querySelector('[data-address]');
  if (!said) return;
  const url = new URL(window.location.href);
  for (const [name, value] of Object.entries(JSON.parse(said.dataset.address))) {
    if (value === null || value === '') url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  window.history.replaceState(window.history.state, '', url);
}).observe(element, { childList: true, subtree: true, attributes: true });
