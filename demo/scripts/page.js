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
  // A button with data-png saves the chart in the element that it names, as it looks.
  document.addEventListener('click', async (event) => {
    const asked = event.target.closest('[data-png]');
    const layers = asked ? [...document.querySelectorAll(`${asked.dataset.png} svg.main-svg`)] : [];
    if (!layers.length) return;
    const { width, height } = layers[0].getBoundingClientRect();
    const canvas = Object.assign(document.createElement('canvas'), { width: 2 * width, height: 2 * height });
    const drawing = canvas.getContext('2d');
    drawing.scale(2, 2);
    drawing.fillStyle = getComputedStyle(document.body).backgroundColor;
    drawing.fillRect(0, 0, width, height);
    for (const layer of layers) {
      const image = new Image();
      image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(layer))}`;
      await image.decode();
      drawing.drawImage(image, 0, 0, width, height);
    }
    const id = new URL(window.location.href).searchParams.get('feature') || 'chart';
    Object.assign(document.createElement('a'), { href: canvas.toDataURL(), download: `feature-${id}.png` }).click();
  });
}
