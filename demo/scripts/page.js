// Runs once: the address names the tab that is looked at, and / goes to the search. Titles come from the server.
() => {
  const tabs = TABS;
  const buttons = () => [...document.querySelectorAll('#tabs > .tab-wrapper button')].filter(
    (button) => !button.closest('[aria-hidden=true]') && button.textContent.trim() in tabs,
  );
  document.addEventListener('click', (event) => {
    const tab = buttons().find((button) => button.contains(event.target));
    if (!tab) return;
    const url = new URL(window.location.href);
    url.searchParams.set('tab', tabs[tab.textContent.trim()]);
    window.history.replaceState(window.history.state, '', url);
  });
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input, textarea, select, [contenteditable]');
    if (event.key !== '/' || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    buttons().find((button) => tabs[button.textContent.trim()] === 'search')?.click();
    setTimeout(() => document.querySelector('#search-text :is(input, textarea)')?.focus(), 100);
  });
}
