// Asks the server again and again for the panels of this page, and lets plotly.js draw them.
"use strict";

const { dashboard, refresh } = document.body.dataset;
const [state, moment, span, pause] = ["state", "moment", "span", "pause"].map((id) => document.getElementById(id));
let timer;

const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

function say(text) {
  if (state.textContent !== text) state.textContent = text; // a screen reader says what has changed, and nothing else
}

function show(panel, { words, figure, numbers }) {
  const [chart, stats, none] = [".chart", ".stats", ".none"].map((part) => panel.querySelector(part));
  panel.classList.toggle("empty", !numbers.length);
  none.textContent = numbers.length ? "" : words;
  chart?.setAttribute("aria-label", words);
  if (chart && numbers.length) Plotly.react(chart, figure.data, figure.layout, { displayModeBar: false, responsive: true });
  stats?.replaceChildren(...numbers.flatMap(([name, newest]) => [make("dt", name), make("dd", newest)]));
  const rows = numbers.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text, place) => make(place ? "td" : "th", text)));
    row.firstChild.scope = "row";
    return row;
  });
  panel.querySelector("tbody")?.replaceChildren(...rows);
}

async function look() {
  clearTimeout(timer);
  try {
    const answer = await (await fetch(`/${dashboard}.json?seconds=${span.value}`)).json();
    for (const [id, panel] of Object.entries(answer.panels)) show(document.getElementById(`panel-${id}`), panel);
    if (!answer.trouble) moment.textContent = `as of ${answer.moment} UTC`;
    say(answer.trouble);
  } catch (error) {
    say("This preview has ended: `mlops-course dashboards` starts it again.");
  }
  document.body.classList.toggle("old", state.textContent !== "");
  if (pause.getAttribute("aria-pressed") === "false") timer = setTimeout(look, 1000 * refresh);
}

span.addEventListener("change", look);
pause.addEventListener("click", () => {
  const paused = pause.getAttribute("aria-pressed") === "false";
  pause.setAttribute("aria-pressed", paused);
  clearTimeout(timer);
  if (!paused) look();
});
look();
