// Asks every two seconds what is new and shows it, in place: zoomed charts, open details and the
// episode that is being read stay as they are. All HTML comes from the server, which escapes texts.
(() => {
  "use strict";
  const EVERY = 2000;
  const at = (id) => document.getElementById(id);
  const main = at("content");
  const shown = new Map(); // key of a section to its HTML
  let version = "", charts = {}, asked = { generation: "", number: "" };

  const draw = () => {
    for (const [key, chart] of Object.entries(charts)) {
      const layout = { ...chartTheme.themed(chart.layout), uirevision: "kept" };
      Plotly.react(key, chart.data, layout, chartTheme.config);
    }
  };

  // Puts HTML into an element; charts that are drawn there, and what was unfolded, stay.
  const fill = (element, html) => {
    const drawn = [...element.querySelectorAll(".js-plotly-plot")];
    const open = [...element.querySelectorAll("details")].map((one) => one.open);
    element.innerHTML = html;
    for (const chart of drawn) {
      const place = document.getElementById(chart.id);
      if (place) {
        chart.style.height = place.style.height;
        place.replaceWith(chart);
      }
    }
    element.querySelectorAll("details").forEach((one, i) => { one.open = open[i] ?? one.open; });
  };

  const section = (key, title) => {
    const made = document.createElement("section");
    made.id = key;
    made.dataset.title = title;
    const heading = document.createElement("h2");
    heading.textContent = title;
    const body = document.createElement("div");
    body.className = "body";
    made.append(...(title ? [heading] : []), body);
    return made;
  };

  const showSections = (sections) => {
    const wanted = sections.flatMap(([key, title, html]) =>
      key === "curves" ? [[key, title, html], ["episodes", "Episodes", null]] : [[key, title, html]]);
    const keys = wanted.map(([key]) => key).join();
    if (main.dataset.keys !== keys) {
      const nodes = wanted.map(([key, title]) => at(key) ?? section(key, title));
      for (const old of [...main.children]) {
        if (!nodes.includes(old)) { shown.delete(old.id); old.remove(); }
      }
      nodes.forEach((node, i) => {
        if (main.children[i] !== node) main.insertBefore(node, main.children[i] ?? null);
      });
      at("sections").replaceChildren(...wanted.filter(([, title]) => title).map(([key, title]) => {
        const link = document.createElement("a");
        link.href = `#${key}`;
        link.textContent = title;
        const item = document.createElement("li");
        item.append(link);
        return item;
      }));
      main.dataset.keys = keys;
    }
    for (const [key, , html] of wanted) {
      if (html !== null && shown.get(key) !== html) {
        fill(at(key).querySelector(".body"), html);
        shown.set(key, html);
      }
    }
  };

  const showEpisodes = async () => {
    const place = document.querySelector("#episodes > .body");
    if (!place) return;
    const answer = await fetch(`episodes?${new URLSearchParams(asked)}`);
    if (!answer.ok) return;
    const html = await answer.text();
    if (shown.get("episodes") === html) return;
    const scrolled = place.querySelector(".chips")?.scrollTop ?? 0;
    fill(place, html);
    shown.set("episodes", html);
    const chips = place.querySelector(".chips");
    if (chips) chips.scrollTop = scrolled;
  };

  main.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { generation, number, of } = button.dataset;
    asked = generation === undefined ? { generation: of, number } : { generation, number: "" };
    showEpisodes();
  });

  const since = (seconds) => {
    for (const [unit, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= unit) return `${Math.floor(seconds / unit)} ${name}`;
    }
    return `${Math.floor(seconds)} s`;
  };

  const showStatus = ({ played, done, asked: wanted, age }) => {
    const over = wanted !== null && done >= wanted;
    const word = played ? "running" : over ? "finished" : !done ? "waiting"
      : played === null ? "perhaps running" : "stopped";
    at("state").textContent = word;
    at("state").className = `verdict s-${word.split(" ")[0]}`;
    at("progress").textContent = done || wanted
      ? `${done}${wanted === null ? "" : ` of ${wanted}`} generations` : "";
    at("age").textContent = age === null ? "" : `last one ${since(age)} ago`;
    at("bar").hidden = !wanted || over;
    if (wanted) at("bar").value = Math.min(done / wanted, 1);
  };

  const show = async (state) => {
    showStatus(state);
    if (state.sections === undefined) return;
    at("facts").dataset.html === state.facts || fill(at("facts"), state.facts);
    at("facts").dataset.html = state.facts;
    at("notices").replaceChildren(...state.notices.map((said) => {
      const item = document.createElement("li");
      item.textContent = said;
      return item;
    }));
    showSections(state.sections);
    charts = state.charts;
    draw();
    await showEpisodes();
    version = state.version;
  };

  const tell = (word, what) => {
    at("state").textContent = word;
    at("state").className = "verdict s-gone";
    at("age").textContent = what;
  };

  const ask = async () => {
    const answer = await fetch(`state?seen=${encodeURIComponent(version)}`).catch(() => null);
    const state = answer?.ok ? await answer.json() : {};
    const reading = state.reading !== undefined;
    setTimeout(ask, reading ? 0 : EVERY);
    if (answer === null) tell("not served any more", "populora watch has ended; start it again");
    else if (!answer.ok) tell("cannot be shown", "populora watch says in its terminal why");
    else if (reading) tell("reading", `${Math.floor(100 * state.reading)} % of what the run wrote`);
    else await show(state);
  };
  ask();
  chartTheme.onChange(draw);
})();
