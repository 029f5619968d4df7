"use strict";
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const themes = { auto: "as the system", light: "light", dark: "dark" };
  const kept = (() => { try { return localStorage; } catch { return {}; } })();  // a file may have none
  const show = (theme) => {
    theme === "auto" ? root.removeAttribute("data-theme") : root.setAttribute("data-theme", theme);
    button.textContent = `Theme: ${themes[theme]}`;
    kept.theme = theme;
  };
  let theme = kept.theme in themes ? kept.theme : "auto";
  show(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    const names = Object.keys(themes);
    show(theme = names[(names.indexOf(theme) + 1) % names.length]);
  });

  const filters = document.getElementById("filters");
  if (!filters) return;
  const list = document.getElementById("sample-list"), all = [...list.children];
  const few = Number(list.dataset.few), more = document.getElementById("more");
  let most = few;
  const texts = all.map((sample) => sample.textContent.toLowerCase());
  const update = () => {
    const words = filters.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const group = filters.elements.group ? filters.elements.group.value : "";
    const [sign, score] = filters.elements.order.value.split(" ");
    const fit = new Set(all.filter((sample, index) =>
      words.every((word) => texts[index].includes(word)) && (group === "" || sample.dataset.group === group)));
    const change = (sample) => Number(sign) * JSON.parse(sample.dataset.changes)[score];
    const ordered = score === undefined ? all : [...all].sort((a, b) => change(b) - change(a));
    let shown = 0;
    for (const sample of ordered) sample.hidden = !(fit.has(sample) && shown++ < most);
    list.append(...ordered);
    const counts = `${Math.min(most, fit.size)} of ${fit.size} shown`;
    document.getElementById("shown").textContent =
      fit.size < all.length ? `${counts}, of ${all.length} in all` : counts;
    more.hidden = fit.size <= most;
    more.textContent = `Show all ${fit.size}`;
  };
  more.addEventListener("click", () => { most = all.length; update(); });
  filters.hidden = false;
  filters.addEventListener("input", () => { most = few; update(); });
  filters.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
