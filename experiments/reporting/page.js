'use strict';
// Draws the charts in the page's colours, and shows masks.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const root = document.documentElement;
const charts = read('charts');

// Colours and fonts of all charts, from the variables of page.css.
function config() {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const series = colour('series').split(' ');
  const dark = root.dataset.theme === 'dark';
  return {
    background: 'transparent',
    font: getComputedStyle(document.body).fontFamily,
    view: {stroke: null},
    axis: {
      domainColor: colour('line'), gridColor: colour('line'), gridOpacity: 0.5,
      tickColor: colour('line'), labelColor: colour('faint'),
      titleColor: colour('faint'), titleFontWeight: 'normal',
      labelFontSize: 11, titleFontSize: 12,
    },
    axisX: {grid: false},
    legend: {
      labelColor: colour('text'), titleColor: colour('faint'),
      titleFontWeight: 'normal', labelLimit: 220, labelFontSize: 12,
      columns: innerWidth < 600 ? 2 : 3,
    },
    range: {
      category: series,
      heatmap: {scheme: dark ? 'viridis' : 'yellowgreenblue'},
      ramp: {scheme: dark ? 'viridis' : 'yellowgreenblue'},
    },
    mark: {color: series[0]},
    line: {strokeWidth: 2},
    rule: {strokeWidth: 1.5},
    style: {note: {color: colour('faint')}},
    text: {fontSize: 11},
  };
}

async function draw() {
  const theme = root.dataset.theme === 'dark' ? 'dark' : 'light';
  const options = {
    mode: 'vega-lite', renderer: 'svg', config: config(),
    ast: true,  // the page's policy allows no eval
    actions: {export: true, source: false, compiled: false, editor: false},
    tooltip: {theme},
  };
  for (const place of document.querySelectorAll('[data-chart]')) {
    try {
      await vegaEmbed(place, charts[place.dataset.chart], options);
    } catch (error) {
      console.error(error);
      const text = document.createElement('p');
      text.className = 'error';
      text.textContent = `This chart could not be drawn: ${error.message}`;
      place.replaceChildren(text);
    }
  }
  root.dataset.drawn = theme;
}

function setTheme(theme) {
  root.dataset.theme = theme;
  const button = document.getElementById('theme');
  button.textContent = theme === 'dark' ? 'Light' : 'Dark';
  return draw();
}

function showMasks() {
  const pictures = read('pictures');
  const [layer, zoom, frame, place, numbers] =
    ['layer', 'zoom', 'mask', 'place', 'numbers'].map(
      (id) => document.getElementById(id));
  if (!layer) return;
  const image = frame.querySelector('img');
  const scale = () => 2 ** Number(zoom.value);  // screen pixels a connection

  function resize() {
    const picture = pictures[layer.value];
    // What is in the middle stays there.
    const x = (frame.scrollLeft + frame.clientWidth / 2) / (image.width || 1);
    const y = (frame.scrollTop + frame.clientHeight / 2) / (image.height || 1);
    image.width = Math.max(1, Math.round(picture.width * scale()));
    image.height = Math.max(1, Math.round(picture.height * scale()));
    frame.scrollLeft = x * image.width - frame.clientWidth / 2;
    frame.scrollTop = y * image.height - frame.clientHeight / 2;
  }

  function choose() {
    const picture = pictures[layer.value];
    image.src = picture.source;
    image.alt = `The mask of ${layer.value}: ${picture.numbers} are live.`;
    numbers.textContent = `${picture.numbers} live. ${picture.caption}`;
    place.textContent = '';
    const fits = frame.clientWidth / picture.width;
    zoom.value = Math.min(3, Math.max(-2, Math.floor(4 * Math.log2(fits)) / 4));
    resize();
    frame.scrollTo(0, 0);
  }

  layer.addEventListener('change', choose);
  zoom.addEventListener('input', resize);
  image.addEventListener('pointermove', (event) => {
    const row = Math.floor(event.offsetY / scale());
    const column = Math.floor(event.offsetX / scale());
    place.textContent = `row ${row}, column ${column}`;
  });
  image.addEventListener('pointerleave', () => { place.textContent = ''; });
  choose();
}

showMasks();
document.getElementById('theme').addEventListener('click', () =>
  setTheme(root.dataset.theme === 'dark' ? 'light' : 'dark'));
setTheme(matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
