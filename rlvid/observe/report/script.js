"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = byId("svg-space").namespaceURI;
  const ITEM_PX = 76, SHOWN_CHARS = 1200;

  /* Texts of datasets, models and teachers reach the page through textContent only. */
  function el(tag, options = {}, ...children) {
    return fill(document.createElement(tag), options, children);
  }
  function svg(tag, options = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), options, children);
  }
  function fill(node, options, children) {
    for (const [name, value] of Object.entries(options)) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "css") for (const [key, item] of Object.entries(value)) node.style.setProperty(key, item);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits }));
  const short = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
    return String(+value.toPrecision(3)).length > 9 ? value.toPrecision(3) : (+value.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 6 });
  };
  const seconds = (value) => `${(Math.round(value * 100) / 100).toLocaleString("en-US")} s`;
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
  const words = (name) => name.replaceAll("_", " ").replace(/\biou\b/g, "IoU");
  const inside = (time, spans) => spans.some(([start, end]) => time >= start - 1e-6 && time < end - 1e-6);
  const within = (spans) => spans.map(([start, end]) => `${seconds(start).replace(" s", "")} to ${seconds(end)}`).join(", ");

  /* ---- head */
  const run = data.run;
  byId("name").textContent = run.name;
  byId("lead").textContent =
    `${run.model}, ${run.steps.toLocaleString("en-US")} of ${run.planned.toLocaleString("en-US")} steps. In a step, each of ${run.questions} questions is shown as ` +
    `${run.variants.length} variant${run.variants.length > 1 ? "s" : ""} of its video and answered ${run.answers} times on each; ` +
    (run.group === "joint" ? "all of a question's answers are compared with one another." : `rewards are compared ${words(run.group)}.`);
  for (const tile of run.tiles) {
    byId("tiles").append(el("div", { class: "tile" }, el("dt", {}, tile.label), el("dd", { class: "value" }, tile.value), el("dd", { class: "note" }, tile.note)));
  }
  byId("foot").textContent = `Written ${run.written}. ${run.hours ? `${number(run.hours * 60, 1)} minutes of training. ` : ""}Nothing on this page is loaded from or sent to anywhere.`;
  const theme = byId("theme");
  const setTheme = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    theme.textContent = dark ? "Light" : "Dark";
    theme.setAttribute("aria-label", dark ? "Switch to light colours" : "Switch to dark colours");
    theme.setAttribute("aria-pressed", String(dark));
  };
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  theme.addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));

  /* ---- curves */
  const WIDE = 400, HIGH = 170, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 22;
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough - 1e-12);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(+at.toPrecision(10));
    return found;
  }
  function smoothed(points) {
    let mean = points[0][1];
    return points.map(([step, value]) => [step, (mean += 0.15 * (value - mean))]);
  }
  function drawChart(chart) {
    const all = chart.series.flatMap((one) => one.points), steps = [...new Set(all.map((point) => point[0]))].sort((a, b) => a - b);
    const first = steps[0], last = Math.max(steps[steps.length - 1], first + 1);
    let low = Math.min(0, ...all.map((point) => point[1])), high = Math.max(...all.map((point) => point[1]));
    if (chart.share) [low, high] = [Math.min(0, low), 1];
    if (high - low < 1e-12) high = low + 1;
    const x = (step) => LEFT + ((step - first) / (last - first)) * (WIDE - LEFT - RIGHT);
    const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HIGH - TOP - BOTTOM);
    const path = (points) => points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", tabindex: "0", "aria-label": `${chart.title}: ${chart.series.map((one) => `${one.label} ends at ${short(one.points[one.points.length - 1][1])}`).join(", ")}` });
    for (const value of ticks(low, high, 3)) {
      picture.append(svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value), class: "gridline" }), svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end", class: "axis" }, short(value)));
    }
    for (const step of ticks(first, last, 4).filter(Number.isInteger)) picture.append(svg("text", { x: x(step), y: HIGH - 5, "text-anchor": "middle", class: "axis" }, String(step)));
    const legend = el("ul", { class: "legend" });
    const rows = chart.series.map((one, at) => {
      const look = `c${at % 7}${at >= 3 ? " dash" : ""}`, many = one.points.length >= 30;
      if (!many || chart.series.length <= 3) picture.append(svg("path", { d: path(one.points), class: `raw ${many ? "" : "only "}${look}` }));
      if (many) picture.append(svg("path", { d: path(smoothed(one.points)), class: `smooth ${look}` }));
      if (one.points.length === 1) picture.append(svg("circle", { cx: x(one.points[0][0]), cy: y(one.points[0][1]), r: 3, class: look }));
      const value = el("b", {});
      legend.append(el("li", {}, el("i", { class: look }), `${words(one.label)} `, value));
      return { values: new Map(one.points), points: one.points, value };
    });
    const where = el("li", { class: "note" });
    legend.append(where);
    const cursor = svg("line", { y1: TOP, y2: HIGH - BOTTOM, class: "cursor", visibility: "hidden" });
    picture.append(cursor);
    let at = null;
    const show = (step) => {
      at = step;
      for (const row of rows) row.value.textContent = short(step === null ? row.points[row.points.length - 1][1] : row.values.get(step));
      where.textContent = step === null ? "" : `at step ${step}`;
      cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
      if (step !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(step));
    };
    picture.addEventListener("pointermove", (event) => {
      const area = picture.getBoundingClientRect(), wanted = first + (((event.clientX - area.left) / area.width) * WIDE - LEFT) / (WIDE - LEFT - RIGHT) * (last - first);
      show(steps.reduce((best, step) => (Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best)));
    });
    picture.addEventListener("pointerleave", () => show(null));
    picture.addEventListener("blur", () => show(null));
    picture.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      show(at === null ? steps[move < 0 ? steps.length - 1 : 0] : steps[Math.min(steps.length - 1, Math.max(0, steps.indexOf(at) + move))]);
    });
    show(null);
    return el("figure", { class: "chart" }, el("h3", {}, chart.title), el("p", { class: "note" }, chart.note), legend, picture);
  }
  for (const chart of data.charts) byId("charts").append(drawChart(chart));
  if (!data.charts.length) byId("charts").append(el("p", { class: "note" }, "No metrics were written yet."));

  /* ---- list and filters */
  const stories = data.stories;
  const list = byId("list"), spacer = byId("spacer");
  const controls = Object.fromEntries(["task", "outcome", "step", "order", "pictures"].map((id) => [id, byId(id)]));
  const hasFilm = (story) => Boolean(story.film && story.film.jpeg);
  let shown = [], current = null;
  function choices(select, every, values) {
    select.append(el("option", { value: "" }, every), ...values.map((value) => el("option", { value }, words(String(value)))));
  }
  choices(controls.task, "all tasks", [...new Set(stories.map((story) => story.task))].sort());
  choices(controls.outcome, "any outcome", ["all right", "mixed", "all wrong", ...(stories.some((story) => story.repaired) ? ["with repairs"] : [])]);
  choices(controls.step, "all steps", [...new Set(stories.map((story) => story.step))].sort((a, b) => a - b));
  const slots = stories.reduce((sum, story) => sum + story.slots.length, 0);
  byId("coverage").textContent =
    `${slots.toLocaleString("en-US")} of about ${run.slots.toLocaleString("en-US")} answers are on this page` +
    (run.shown < run.dumped ? `, from ${run.shown} of ${run.dumped} steps at even distances` : "") +
    (stories.length < data.stories_read ? "; the rest did not fit its size" : "") +
    `. ${stories.filter(hasFilm).length} questions have pictures (▦)${stories.some((story) => story.repaired) ? "; ⟳ marks repaired answers" : ""}.`;

  function filter() {
    const { task, outcome, step, order, pictures } = controls;
    shown = stories.filter(
      (story) =>
        (!task.value || story.task === task.value) &&
        (!step.value || story.step === +step.value) &&
        (!outcome.value || (outcome.value === "with repairs" ? story.repaired > 0 : story.outcome === outcome.value)) &&
        (!pictures.checked || hasFilm(story)),
    );
    const rank = (story) => (story.rank === undefined ? 1e9 : story.rank);
    if (order.value === "rank") shown.sort((a, b) => rank(a) - rank(b) || a.step - b.step);
    byId("count").textContent = `${shown.length.toLocaleString("en-US")} question${shown.length === 1 ? "" : "s"}, ${shown.reduce((sum, story) => sum + story.slots.length, 0).toLocaleString("en-US")} answers`;
    spacer.style.height = `${shown.length * ITEM_PX}px`;
    list.scrollTop = 0;
    paint();
  }
  function paint() {
    const from = Math.max(0, Math.floor(list.scrollTop / ITEM_PX) - 3), to = Math.min(shown.length, from + Math.ceil(list.clientHeight / ITEM_PX) + 7);
    spacer.replaceChildren(...shown.slice(from, to).map((story, at) => item(story, from + at)));
    if (!shown.length) spacer.replaceChildren(el("p", { class: "empty" }, "No question fits these filters."));
    list.setAttribute("aria-activedescendant", current && shown.includes(current) ? `item-${shown.indexOf(current)}` : "");
  }
  function item(story, at) {
    const right = story.slots.filter((slot) => slot.right).length, share = el("span", { css: { width: `${(100 * right) / story.slots.length}%` } });
    const marks = `${hasFilm(story) ? "▦ " : ""}${story.repaired ? "⟳ " : ""}`;
    return el(
      "div",
      { class: "item", id: `item-${at}`, role: "option", "aria-selected": String(story === current), "aria-posinset": at + 1, "aria-setsize": shown.length, css: { top: `${at * ITEM_PX}px` }, onclick: () => open(story, null, true) },
      el("div", { class: "q", dir: "auto" }, story.question.slice(0, 200) || story.id),
      el("div", { class: "m" }, `${marks}step ${story.step} · ${right}/${story.slots.length} right · ${words(story.task)}`),
      el("div", { class: "share", title: `${right} of ${story.slots.length} answers right` }, share),
    );
  }
  list.addEventListener("scroll", paint, { passive: true });
  list.addEventListener("keydown", (event) => {
    const at = shown.indexOf(current), to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined || !shown.length) return;
    event.preventDefault();
    step(Math.min(shown.length - 1, Math.max(0, to)));
  });
  function step(at) {
    open(shown[at], null, false);
    reveal(at);
  }
  function reveal(at) {
    if (at < 0) return;
    if (at * ITEM_PX < list.scrollTop) list.scrollTop = at * ITEM_PX;
    else if ((at + 1) * ITEM_PX > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ITEM_PX - list.clientHeight;
    paint();
  }
  for (const control of Object.values(controls)) control.addEventListener("change", filter);
  byId("filters").addEventListener("reset", () => setTimeout(filter));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("resize", paint);

  /* ---- one story */
  const address = (story, slot) => "#" + [story.step, story.id, ...(slot ? [slot.v, slot.m] : [])].map((part) => encodeURIComponent(part)).join("/");
  const answerId = (slot) => `answer-${slot.v}-${slot.m}`;

  function open(story, slot, byHand) {
    current = story;
    byId("story").replaceChildren(...tell(story));
    if (byHand !== null) history.replaceState(null, "", address(story, slot));
    paint();
    if (slot) target(slot);
    else if (byHand && innerWidth <= 900) byId("story").scrollIntoView({ block: "start" });
  }
  function target(slot) {
    for (const other of document.querySelectorAll(".answer.target")) other.classList.remove("target");
    const card = byId(answerId(slot));
    if (!card) return;
    card.classList.add("target");
    card.scrollIntoView({ block: "center" });
    card.focus({ preventScroll: true });
  }
  function fromAddress() {
    const parts = location.hash.slice(1).split("/");
    if (parts.length < 2) return false;
    let wanted;
    try { wanted = parts.map(decodeURIComponent); } catch { return false; }
    const story = stories.find((one) => one.step === +wanted[0] && one.id === wanted[1]);
    if (!story) return false;
    if (!shown.includes(story)) { byId("filters").reset(); filter(); }
    const slot = wanted.length === 4 ? story.slots.find((one) => one.v === +wanted[2] && one.m === +wanted[3]) : null;
    open(story, slot, null);
    reveal(shown.indexOf(story));
    if (slot) target(slot);
    else byId("story").scrollIntoView({ block: "start" });
    return true;
  }
  addEventListener("hashchange", fromAddress);

  function tell(story) {
    const at = shown.indexOf(story), right = story.slots.filter((slot) => slot.right).length;
    const move = (to, label) => el("button", { type: "button", disabled: at < 0 || to < 0 || to >= shown.length, onclick: () => step(to) }, label);
    const crumbs = el("div", { class: "crumbs" }, el("a", { href: address(story) }, `Step ${story.step}`), el("span", { class: "chip" }, words(story.task)), el("span", { class: "chip" }, story.outcome), story.repaired ? el("span", { class: "chip" }, `${story.repaired} repaired`) : null, el("span", { class: "nav" }, move(at - 1, "← Previous"), move(at + 1, "Next →")));
    const ask = el("h3", { class: "ask", dir: "auto" }, story.question || story.id);
    const options = story.options.length ? el("ul", { class: "options", "aria-label": "Options" }, ...story.options.map((option) => el("li", { dir: "auto", class: option === story.answer ? "truth" : "" }, option))) : null;
    const truth = [story.answer, story.spans.length ? within(story.spans) : "", story.places].filter(Boolean);
    const truthLine = truth.length ? el("p", { class: "truthline" }, "Right answer: ", el("b", { dir: "auto" }, truth.join("; "))) : null;
    return [crumbs, ask, options, truthLine, summary(story, right), story.variants.some((variant) => variant.times.length) ? timeline(story) : null, advantages(story), repairs(story), ...story.variants.map((variant) => view(story, variant)), facts(story)].filter(Boolean);
  }
  function summary(story, right) {
    const rewards = story.slots.map((slot) => slot.reward), best = Math.max(...rewards), worst = Math.min(...rewards), total = story.slots.length;
    const views = story.variants.length, per = story.variants.map((variant) => story.slots.filter((slot) => slot.v === variant.n && slot.right).length);
    let text = `The policy looked at ${views} variant${views > 1 ? "s" : ""} of the video and answered ${total} times: ${right} right, ${total - right} wrong. `;
    if (views > 1 && right && right < total) text += `Right answers per variant: ${per.join(", ")}. `;
    text += best - worst < 1e-9 ? `All earned the same reward (${number(best)}), so nothing is learned from this question.` : `Rewards go from ${number(worst)} to ${number(best)}; better than the mean is reinforced, worse is discouraged.`;
    return el("p", { class: "summary" }, text);
  }

  const truthSpans = (story) => (story.spans.length ? story.spans : story.evidence);
  function timeline(story) {
    const times = story.variants.flatMap((variant) => variant.times), relevance = story.relevance;
    const end = Math.max(story.duration || 0, ...times, ...(relevance ? relevance.times_s : [0]), 0.1);
    const wide = innerWidth <= 900 ? 400 : 860, left = innerWidth <= 900 ? 74 : 150, row = 22, curve = relevance ? 84 : 0, top = 22, high = top + curve + row * story.variants.length + 24;
    const x = (time) => left + (time / end) * (wide - left - 12);
    const drawing = svg("svg", { viewBox: `0 0 ${wide} ${high}`, class: "timeline", role: "img", "aria-label": `Time line of ${seconds(end)}. ${truthSpans(story).length ? `Evidence from ${within(truthSpans(story))}.` : ""}` });
    for (const [from, to] of truthSpans(story)) {
      drawing.append(svg("rect", { x: x(from), y: top, width: Math.max(2, x(to) - x(from)), height: high - top - 20, class: "span" }, svg("title", {}, `evidence, ${within([[from, to]])}`)), svg("line", { x1: x(from), x2: Math.max(x(to), x(from) + 2), y1: top, y2: top, class: "spanline" }), svg("text", { x: Math.min(x(from), wide - 60), y: top - 6, class: "truth" }, "evidence"));
    }
    if (relevance) drawing.append(...relevanceCurve(story, x, top + 6, curve - 16));
    story.variants.forEach((variant, at) => {
      const y = top + curve + row * at + row / 2 + 2;
      drawing.append(svg("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, innerWidth <= 900 ? `variant ${variant.n + 1}` : `${variant.n + 1} ${words(variant.kind)}`), svg("line", { x1: left, x2: wide - 12, y1: y, y2: y, class: "gridline" }));
      for (const time of variant.times) drawing.append(svg("line", { x1: x(time), x2: x(time), y1: y - 6, y2: y + 6, class: `tick${inside(time, truthSpans(story)) ? " in" : ""}` }, svg("title", {}, `variant ${variant.n + 1}: frame at ${seconds(time)}`)));
    });
    for (const time of ticks(0, end, 6)) drawing.append(svg("text", { x: x(time), y: high - 5, "text-anchor": "middle" }, seconds(time)));
    const about = relevance ? "The curve says how much each moment has to do with the question; circles are frames that some variant shows. " : "";
    const seen = truthSpans(story).length ? "Green is where the answer can be seen; thick green marks are frames that show it." : "";
    return el("section", {}, el("h3", {}, "Which moments it was shown"), el("p", { class: "sub" }, `${about}Each row is a variant, each mark a frame of the video. ${seen}`), drawing);
  }
  function relevanceCurve(story, x, top, high) {
    const { times_s: times, scores } = story.relevance, low = Math.min(...scores), range = Math.max(...scores) - low || 1;
    const y = (score) => top + high * (1 - (score - low) / range);
    const line = times.map((time, at) => `${at ? "L" : "M"}${x(time).toFixed(1)} ${y(scores[at]).toFixed(1)}`).join("");
    const at = (time) => times.reduce((best, other, index) => (Math.abs(other - time) < Math.abs(times[best] - time) ? index : best), 0);
    const dots = [...new Set(story.variants.flatMap((variant) => variant.times).map(at))].map((index) => svg("circle", { cx: x(times[index]), cy: y(scores[index]), r: 3.5, class: "dot" }, svg("title", {}, `relevance ${short(scores[index])} at ${seconds(times[index])}`)));
    return [svg("text", { x: x(0) - 10, y: top + high / 2 + 4, "text-anchor": "end" }, "relevance"), svg("path", { d: `${line}L${x(times[times.length - 1])} ${top + high}L${x(times[0])} ${top + high}Z`, class: "area" }), svg("path", { d: line, class: "curve" }), ...dots];
  }

  /* Colour by advantage: blue above the mean, orange below, strongest from two standard deviations on; the sign is always written, too. */
  const tone = (advantage) => ({ class: advantage < 0 ? "bad" : "good", css: { "--a": String(Math.round(Math.min(1, Math.abs(advantage) / 2) * 62)) } });
  function toned(tag, advantage, options, ...children) {
    const look = tone(advantage);
    return el(tag, { ...options, class: `${options.class || ""} ${look.class}`, css: look.css }, ...children);
  }
  function advantages(story) {
    const count = Math.max(...story.slots.map((slot) => slot.m)) + 1, head = el("tr", {}, el("td", {}));
    for (let m = 0; m < count; m++) head.append(el("th", { scope: "col" }, el("span", { class: "wide" }, "answer "), String(m + 1)));
    const body = story.variants.map((variant) => {
      const row = el("tr", {}, el("th", { scope: "row" }, el("span", { class: "narrow" }, "variant "), `${variant.n + 1} `, el("span", { class: "wide" }, words(variant.kind))));
      for (const slot of story.slots.filter((one) => one.v === variant.n)) {
        const title = `${slot.right ? "right" : "wrong"}, reward ${number(slot.reward)}, advantage ${signed(slot.advantage)}${slot.repaired ? ", repaired" : ""}`;
        row.append(el("td", {}, toned("a", slot.advantage, { class: "cell", href: address(story, slot), title, "aria-label": title, onclick: (event) => { event.preventDefault(); history.replaceState(null, "", address(story, slot)); target(slot); } }, `${slot.right ? "✓" : "✗"} ${signed(slot.advantage)}${slot.repaired ? " ⟳" : ""}`)));
      }
      return row;
    });
    const bar = el("span", { class: "bar" }, ...[-2, -1, 0, 1, 2].map((value) => toned("span", value, {})));
    const scale = el("div", { class: "scale" }, "−2 discouraged", bar, "+2 reinforced", el("span", {}, `✓ right ✗ wrong${story.repaired ? " ⟳ repaired" : ""}`));
    return el("section", {}, el("h3", {}, "How its answers compare"), el("p", { class: "sub" }, "Advantage: how many standard deviations an answer's reward lies above or below the group's mean. Click one to read it."), el("table", { class: "matrix" }, el("thead", {}, head), el("tbody", {}, ...body)), scale);
  }

  function view(story, variant) {
    const slots = story.slots.filter((slot) => slot.v === variant.n), film = story.film || {};
    const panels = film.panels && film.panels[variant.n], shown = panels ? panels.map(([label, jpeg]) => panel(label, jpeg)) : variant.times.map((time) => frame(story, time, variant.box));
    const what = data.kinds[variant.kind] || "", strip = el("div", { class: "strip", tabindex: "0", role: "group", "aria-label": `Frames of variant ${variant.n + 1}` }, ...shown);
    const box = variant.box ? ` The bright part of each frame is what was kept (${Math.round(100 * (variant.box[2] - variant.box[0]) * (variant.box[3] - variant.box[1]))} % of it); the rest was cut away.` : "";
    const missing = film.jpeg || panels ? "" : ` No pictures: ${film.missing || "only some questions have them; rlvid report RUN_DIR --question ID adds them"}.`;
    return el("section", { class: "variant" }, el("h4", {}, `Variant ${variant.n + 1}: ${words(variant.kind)} `, el("span", {}, what)), el("p", { class: "note" }, `${panels ? (panels.length ? "All that it was shown, in the order of the prompt." : "It was shown nothing but the text.") : `${variant.times.length} frames of ${variant.size[1]} × ${variant.size[0]} pixels.`}${box}${missing}`), strip, el("div", { class: "answers" }, ...slots.map((slot) => answer(story, slot))));
  }
  const panel = (label, jpeg) => el("figure", { class: "frame", title: label }, el("div", { class: "pic" }, el("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: label, decoding: "async" })), el("figcaption", {}, label));
  function frame(story, time, box, regions = []) {
    const film = story.film || {}, at = film.jpeg ? film.times.findIndex((other) => Math.abs(other - time) < 1e-4) : -1, shows = inside(time, truthSpans(story));
    const picture = el("div", { class: "pic", css: { "aspect-ratio": film.jpeg ? `${film.size[0]} / ${film.size[1]}` : "16 / 10" } });
    if (at >= 0) picture.append(el("img", { src: `data:image/jpeg;base64,${film.jpeg[at]}`, alt: `frame at ${seconds(time)}`, decoding: "async" }));
    else picture.append(el("span", { class: "none" }, "no picture"));
    if (box) picture.append(el("div", { class: "box", css: place(box) }));
    for (const region of regions) picture.append(el("div", { class: "region", css: place(region.box) }));
    return el("figure", { class: `frame${shows ? " in" : ""}`, title: `${seconds(time)}${shows ? ", inside the evidence" : ""}` }, picture, el("figcaption", {}, `${seconds(time)}${shows ? " ●" : ""}`));
  }
  const place = ([left, top, right, bottom]) => ({ left: `${left * 100}%`, top: `${top * 100}%`, width: `${(right - left) * 100}%`, height: `${(bottom - top) * 100}%` });

  function said(text) {
    const node = el("div", { class: "said", dir: "auto" });
    const write = (shownText) => {
      let bold = false;
      node.replaceChildren(...shownText.split(/(<\/?(?:think|answer)>)/).filter(Boolean).map((piece) => {
        if (/^<\/?(?:think|answer)>$/.test(piece)) { bold = piece === "<answer>"; return el("span", { class: "tag" }, piece); }
        return bold ? el("b", {}, piece) : document.createTextNode(piece);
      }));
      if (!text) node.append(el("span", { class: "tag" }, "(nothing)"));
    };
    write(text.slice(0, SHOWN_CHARS));
    if (text.length <= SHOWN_CHARS) return [node];
    const more = el("button", { type: "button", class: "more", onclick: () => { write(text); more.remove(); } }, `Show all ${text.length.toLocaleString("en-US")} characters`);
    return [node, more];
  }
  const partsList = (parts) => el("ul", { class: "parts", "aria-label": "Reward parts" }, ...Object.entries(parts).map(([name, value]) => el("li", {}, `${words(name)} `, el("b", {}, number(value)))));
  function answer(story, slot) {
    const link = el("a", { href: address(story, slot), title: "link to this answer", onclick: () => target(slot) }, `Answer ${slot.m + 1}`);
    const head = el("header", {}, link, el("span", { class: "adv" }, signed(slot.advantage)), el("span", { class: "verdict" }, `${slot.right ? "✓ right" : "✗ wrong"}, reward ${number(slot.reward)}${slot.repaired ? ", repaired" : ""}`));
    const more = el("details", {}, el("summary", {}, "where it comes from"), el("dl", { class: "facts" }, ...pairs({ tokens: slot.tokens, "policy version": slot.version, seed: slot.seed, ...(slot.judge ? { "the judge": slot.judge } : {}), ...(slot.reason ? { "why no reward": slot.reason } : {}) })));
    return toned("article", slot.advantage, { class: "answer", id: answerId(slot), tabindex: "-1", "aria-label": `Variant ${slot.v + 1}, answer ${slot.m + 1}` }, head, ...said(slot.text), partsList(slot.parts), more);
  }
  const pairs = (facts) => Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, String(value))]);

  function repairs(story) {
    const repaired = story.slots.filter((slot) => slot.repaired);
    if (!repaired.length) return null;
    return el("section", {}, el("h3", {}, "What the teacher repaired"), el("p", { class: "sub" }, "A failed answer goes to the teacher, who says where to look, never what to answer. The policy then answers again; that answer counts, a little less than one given unaided."), ...repaired.map((slot) => repair(story, slot)));
  }
  function repair(story, slot) {
    const patch = slot.patch || {}, regions = patch.regions || [], times = [...new Set([...(patch.frames_s || []), ...regions.map((region) => region.time_s)])].sort((a, b) => a - b);
    const near = (time) => regions.filter((region) => Math.abs(region.time_s - time) < 0.05);
    const frames = slot.shown.length ? slot.shown.map((one) => frame(story, one.time_s, one.box, near(one.time_s))) : times.map((time) => frame(story, time, null, near(time)));
    const cited = [(patch.spans || []).length ? `look at ${within(patch.spans)}` : "", patch.error_class ? `${patch.error_class} mistake` : ""].filter(Boolean).join(" · ");
    return el("div", { class: "flow" },
      el("div", {}, el("h4", {}, `1. Variant ${slot.v + 1}, answer ${slot.m + 1}, failed`), ...said(slot.first.text), partsList(slot.first.parts)),
      el("div", {}, el("h4", {}, "2. The teacher's patch"), el("blockquote", { dir: "auto" }, patch.hint || "(no text)"), el("p", { class: "note" }, [cited, slot.shown.length ? "these frames were added to the prompt" : ""].filter(Boolean).join(" · ")), frames.length ? el("div", { class: "strip", tabindex: "0", role: "group", "aria-label": "Frames of the patch" }, ...frames) : null),
      toned("div", slot.advantage, {}, el("h4", {}, `3. Answered again: ${slot.right ? "✓ right" : "✗ wrong"}, reward ${number(slot.reward)}`), ...said(slot.text), partsList(slot.parts), slot.alignment === null || slot.alignment === undefined ? null : el("p", { class: "note" }, `refers to ${Math.round(100 * slot.alignment)} % of the patch's evidence`)),
    );
  }
  function facts(story) {
    return el("section", { class: "variant" }, el("h3", {}, "Where to find it"), el("dl", { class: "facts" }, ...pairs({ question: story.id, video: story.video || "unknown", ...(story.clip ? { clip: `${within([story.clip])} of the file: times in answers and hints count from its start` } : {}), slots: `rollouts/step_${String(story.step).padStart(6, "0")}.jsonl` })));
  }

  filter();
  if (!fromAddress() && shown.length) open(shown[0], null, null);
  if (!shown.length) byId("story").append(el("p", { class: "note" }, "No answers were dumped yet."));
  document.documentElement.dataset.ready = "yes";
})();
