// Runs once: the address names the tab that is looked at, and / goes to the search.
() => {
  document.addEventListener('click', (event) => {
    const tab = event.target.closest('button[role=tab]');
    const id = tab && (tab.dataset.tabId || tab.id.replace(/-button$/, ''));
    if (!id) return;
    const url = new URL(window.location.href);
    url.searchParams.set('tab', id);
    window.history.replaceState(window.history.state, '', url);
  });
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input, textarea, select, [contenteditable]');
    if (event.key !== '/' || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    document.querySelector('button[role=tab][data-tab-id=search]')?.click();
    setTimeout(() => document.querySelector('#search-text :is(input, textarea)')?.focus(), 100);
  });
}
