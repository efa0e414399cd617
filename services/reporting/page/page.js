// Asks the API with the token of the address's fragment and draws what it answers.

const KPIS = [
  {
    kpi: "participation",
    unit: "share",
    title: "Participation",
    what: "People taking part now, of those eligible",
    counted: ["eligible person", "eligible people"],
  },
  {
    kpi: "match_rate",
    unit: "share",
    title: "Match rate",
    what: "People matched, of those ready in rounds",
    counted: ["person in rounds", "people in rounds"],
  },
  {
    kpi: "time_to_match_median",
    unit: "days",
    title: "Time to match, median",
    what: "Ready to paired; half waited no longer",
    counted: ["wait", "waits"],
  },
  {
    kpi: "time_to_match_p90",
    unit: "days",
    title: "Time to match, 90th percentile",
    what: "Ready to paired; nine of ten waited no longer",
    counted: ["wait", "waits"],
  },
  {
    kpi: "acceptance",
    unit: "share",
    title: "Acceptance",
    what: "Proposals accepted, of those answered",
    counted: ["answered proposal", "answered proposals"],
  },
  {
    kpi: "cadence",
    unit: "ratio",
    title: "Cadence",
    what: "Sessions held, of those expected in active time",
    counted: ["session held", "sessions held"],
  },
  {
    kpi: "satisfaction",
    unit: "share",
    title: "Satisfaction, 4 or 5 of 5",
    what: "Pulses that rate the session 4 or 5",
    counted: ["pulse", "pulses"],
  },
  {
    kpi: "satisfaction",
    unit: "mean_1_to_5",
    title: "Satisfaction, mean",
    what: "Mean rating in pulses, from 1 to 5",
    counted: ["pulse", "pulses"],
  },
  {
    kpi: "rotation",
    unit: "share",
    title: "Rotation",
    what: "Pairs that rotated, of those that ended",
    counted: ["ended pair", "ended pairs"],
  },
];

const DIMENSIONS = [
  { by: "role", title: "By role", lead: "Juniors mentor, seniors learn.", head: "Role" },
  { by: "region", title: "By region", lead: "Pairs count in the region of their mentee.", head: "Region" },
  {
    by: "department",
    title: "By department",
    lead: "Pairs count in the department of their mentee.",
    head: "Department",
  },
];

const SVG = "http://www.w3.org/2000/svg";
const TOKEN = "upward.token";
const PROGRAM = "upward.program";

const whole = new Intl.NumberFormat("en-US");
const percent = new Intl.NumberFormat("en-US", { style: "percent" });
const finePercent = new Intl.NumberFormat("en-US", { style: "percent", maximumFractionDigits: 1 });
const mean = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const moment = new Intl.DateTimeFormat("en-US", {
  dateStyle: "long",
  timeStyle: "short",
  timeZone: "UTC",
});
const shortMonth = new Intl.DateTimeFormat("en-US", { month: "short", timeZone: "UTC" });
const longMonth = new Intl.DateTimeFormat("en-US", {
  month: "long",
  year: "numeric",
  timeZone: "UTC",
});

const at = (id) => document.getElementById(id);
let asked = 0;

/** An error that the reader can do something about. */
class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function share(value) {
  return (Math.abs(value) < 0.1 ? finePercent : percent).format(value);
}

function figure(unit, value) {
  if (unit === "days") return `${whole.format(value)} ${value === 1 ? "day" : "days"}`;
  if (unit === "mean_1_to_5") return mean.format(value);
  return share(value);
}

function exact(row) {
  return element("data", { value: String(row.value) }, figure(row.unit, row.value));
}

function counted(kpi, n) {
  return `${whole.format(n)} ${kpi.counted[n === 1 ? 0 : 1]}`;
}

function interval(row) {
  return row.low === null ? null : `${share(row.low)} to ${share(row.high)}`;
}

function monthStart(month) {
  return new Date(`${month}-01T00:00:00Z`);
}

function rowsOf(rows, kpi) {
  return rows.filter((row) => row.kpi === kpi.kpi && row.unit === kpi.unit);
}

// Asking ------------------------------------------------------------------------------------

async function ask(path, query) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null) url.searchParams.set(name, value);
  }
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` };
  const answer = await fetch(url, { headers, cache: "no-store" });
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, problem.detail ?? "The service did not say why.");
}

async function askPrograms() {
  const programs = [];
  let cursor = null;
  do {
    const page = await ask("v1/programs", { limit: 200, cursor });
    programs.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor !== null);
  return programs;
}

async function askKpis(program, by) {
  const rows = [];
  let answer = null;
  do {
    answer = await ask("v1/kpis", { program, by, cursor: answer?.next_cursor ?? null });
    rows.push(...answer.rows);
  } while (answer.next_cursor !== null);
  return { ...answer, rows };
}

// Drawing -----------------------------------------------------------------------------------

function tile(kpi, row) {
  const parts = [element("h3", {}, kpi.title), element("p", { class: "what" }, kpi.what)];
  if (row === undefined) {
    parts.push(element("p", { class: "value none" }, "No data yet"));
  } else if (!row.shown) {
    parts.push(element("p", { class: "value none" }, `not shown: ${row.why_hidden}`));
  } else {
    const range = interval(row);
    parts.push(element("p", { class: "value" }, exact(row)));
    const n = element("p", { class: "n" }, "n = ", counted(kpi, row.n));
    if (range !== null) n.append(element("br"), `95% interval ${range}`);
    parts.push(n);
  }
  return element("li", { class: "tile" }, ...parts);
}

function scaleTop(kpi, rows) {
  if (kpi.unit === "share") return [0, 1];
  if (kpi.unit === "mean_1_to_5") return [1, 5];
  const highest = Math.max(...rows.filter((row) => row.shown).map((row) => row.value), 0);
  if (kpi.unit === "ratio") return [0, Math.max(1, Math.ceil(highest * 2) / 2)];
  const step = 10 ** Math.floor(Math.log10(Math.max(highest, 1)));
  return [0, Math.max(4, Math.ceil(highest / step) * step)];
}

function monthsBetween(first, last) {
  const months = [];
  for (const day = monthStart(first); ; day.setUTCMonth(day.getUTCMonth() + 1)) {
    const month = day.toISOString().slice(0, 7);
    months.push(month);
    if (month >= last) return months;
  }
}

const WIDTH = 360;
const HEIGHT = 168;
const EDGE = { left: 40, right: 4, top: 10, bottom: 26 };
const INSET = 16;

function chart(kpi, rows, months) {
  const byMonth = new Map(rows.map((row) => [row.period, row]));
  const [least, most] = scaleTop(kpi, rows);
  const inner = WIDTH - EDGE.left - EDGE.right - 2 * INSET;
  const part = (i) => (months.length === 1 ? 0.5 : i / (months.length - 1));
  const x = (i) => EDGE.left + INSET + part(i) * inner;
  const y = (value) =>
    EDGE.top + (1 - (value - least) / (most - least)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const axis = [];
  const ticks = kpi.unit === "mean_1_to_5" ? [1, 3, 5] : [least, (least + most) / 2, most];
  for (const value of ticks) {
    const label = kpi.unit === "share" || kpi.unit === "ratio" ? percent.format(value) : `${value}`;
    axis.push(
      drawn("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
      drawn("text", { x: EDGE.left - 7, y: y(value) + 4, "text-anchor": "end" }, label),
    );
  }
  if (kpi.unit === "ratio" && most > 1) {
    axis.push(drawn("line", { class: "plan", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(1), y2: y(1) }));
  }
  const every = Math.ceil(months.length / 7);
  months.forEach((month, i) => {
    if (i % every === 0) {
      const year = i === 0 || month.endsWith("-01") ? ` ’${month.slice(2, 4)}` : "";
      const text = shortMonth.format(monthStart(month)) + year;
      axis.push(drawn("text", { x: x(i), y: HEIGHT - 8, "text-anchor": "middle" }, text));
    }
  });
  if (!rows.some((row) => row.shown)) {
    const middle = { x: EDGE.left + INSET + inner / 2, y: HEIGHT / 2 - 4, "text-anchor": "middle" };
    axis.push(drawn("text", middle, "Not shown in any month"));
  }
  const label = `${kpi.title} by month. ${months
    .filter((month) => byMonth.has(month))
    .map((month) => `${longMonth.format(monthStart(month))}: ${said(byMonth.get(month))}`)
    .join("; ")}.`;
  return drawn(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    ...axis,
    ...marks(months, byMonth, x, y, least),
  );
}

/** Bands and lines over each run of shown months, a dot for each of them, a cross for a hidden one. */
function marks(months, byMonth, x, y, least) {
  const lines = [];
  const dots = [];
  let run = [];
  const close = () => {
    const path = (points) => points.map(([px, py]) => `${px},${py}`).join(" ");
    if (run.length > 0 && run[0].row.low !== null) {
      const over = run.map(({ i, row }) => [x(i), y(row.high)]);
      const under = run.map(({ i, row }) => [x(i), y(row.low)]).reverse();
      if (run.length > 1) {
        lines.push(drawn("polygon", { class: "band", points: path([...over, ...under]) }));
      } else {
        const [[px, high], [, low]] = [over[0], under[0]];
        lines.push(drawn("line", { class: "whisker", x1: px, x2: px, y1: high, y2: low }));
      }
    }
    if (run.length > 1) {
      const points = path(run.map(({ i, row }) => [x(i), y(row.value)]));
      lines.push(drawn("polyline", { class: "line", points }));
    }
    run = [];
  };
  months.forEach((month, i) => {
    const row = byMonth.get(month);
    if (row?.shown) {
      run.push({ i, row });
      dots.push(drawn("circle", { class: "dot", cx: x(i), cy: y(row.value), r: 4 }));
      return;
    }
    close();
    if (row !== undefined) {
      const [px, py] = [x(i), y(least) - 7];
      const cross = `M${px - 3.5} ${py - 3.5}l7 7m0 -7l-7 7`;
      dots.push(drawn("path", { class: "veiled", d: cross }));
    }
  });
  close();
  return [...lines, ...dots];
}

function said(row) {
  return row.shown ? figure(row.unit, row.value) : `not shown, ${row.why_hidden}`;
}

function chartFigure(kpi, rows, months) {
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, longMonth.format(monthStart(row.period))),
      ...(row.shown
        ? [
            element("td", {}, exact(row), interval(row) && element("small", {}, interval(row))),
            element("td", {}, whole.format(row.n)),
          ]
        : [element("td", { class: "none", colspan: "2" }, `not shown: ${row.why_hidden}`)]),
    ),
  );
  const head = ["Month", kpi.title, "n"].map((text) => element("th", { scope: "col" }, text));
  return element(
    "figure",
    { class: "chart" },
    element("figcaption", {}, element("h3", {}, kpi.title), element("p", { class: "what" }, kpi.what)),
    chart(kpi, rows, months),
    element(
      "details",
      {},
      element("summary", {}, "As a table", element("span", { class: "skip" }, `: ${kpi.title}`)),
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...head)),
        element("tbody", {}, ...body),
      ),
    ),
  );
}

function cell(kpi, row) {
  if (row === undefined) return element("td", { class: "none" }, "no data");
  if (!row.shown) {
    return element("td", { class: "none" }, "not shown", element("small", {}, row.why_hidden));
  }
  const range = interval(row);
  return element(
    "td",
    {},
    exact(row),
    range && element("small", {}, range),
    element("small", {}, `n = ${whole.format(row.n)}`),
  );
}

function dimension({ by, title, lead, head }, rows) {
  const kpis = KPIS.filter((kpi) => rowsOf(rows, kpi).length > 0);
  const values = [...new Set(rows.map((row) => row.breakdown[by]))].sort((a, b) => a.localeCompare(b, "en"));
  const body = values.map((value) => {
    const name = by === "role" ? value[0].toUpperCase() + value.slice(1) : value;
    const cells = kpis.map((kpi) =>
      cell(kpi, rowsOf(rows, kpi).find((row) => row.breakdown[by] === value)),
    );
    return element("tr", {}, element("th", { scope: "row" }, name), ...cells);
  });
  const heads = [head, ...kpis.map((kpi) => kpi.title)].map((text) =>
    element("th", { scope: "col" }, text),
  );
  return element(
    "section",
    { "aria-labelledby": `by-${by}` },
    element("h2", { id: `by-${by}` }, title),
    element("p", { class: "lead" }, lead),
    element(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": `by-${by}` },
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...heads)),
        element("tbody", {}, ...body),
      ),
    ),
  );
}

function draw(program, answers) {
  const { none, month } = answers;
  document.title = `${program.title} – Upward program report`;
  at("title").textContent = program.title;
  at("meta").replaceChildren(
    "Figures as of ",
    element("time", { datetime: none.as_of }, `${moment.format(new Date(none.as_of))} UTC`),
    ` · version ${program.version} of the program`,
  );
  at("protected").textContent =
    `Figures about fewer than ${none.threshold} people are not shown, so that nobody can be told by them.`;
  at("tiles").replaceChildren(...KPIS.map((kpi) => tile(kpi, rowsOf(none.rows, kpi)[0])));
  const periods = month.rows.map((row) => row.period).sort();
  const months = periods.length > 0 ? monthsBetween(periods[0], periods.at(-1)) : [];
  at("trends-section").hidden = months.length === 0;
  at("charts").replaceChildren(
    ...KPIS.map((kpi) => [kpi, rowsOf(month.rows, kpi)])
      .filter(([, rows]) => rows.length > 0)
      .map(([kpi, rows]) => chartFigure(kpi, rows, months)),
  );
  at("tables").replaceChildren(
    ...DIMENSIONS.filter(({ by }) => answers[by].rows.length > 0).map((each) =>
      dimension(each, answers[each.by].rows),
    ),
  );
  const empty = Object.values(answers).every((answer) => answer.rows.length === 0);
  tell(empty ? "No figures yet: nothing has happened in this program. They follow events within seconds." : "");
  at("report").hidden = empty;
}

// States ------------------------------------------------------------------------------------

function tell(text) {
  at("status").textContent = text;
}

function enter(why) {
  sessionStorage.removeItem(TOKEN);
  document.title = "Upward program report";
  at("tools").hidden = true;
  at("report").hidden = true;
  at("entry").hidden = false;
  at("entry-why").textContent = why;
  tell("");
}

function fail(error) {
  at("report").hidden = true;
  if (error instanceof Refusal && error.status === 401) {
    enter("This token is not valid, or not any more.");
  } else if (error instanceof Refusal) {
    tell(`The figures can’t be shown: ${error.message}`);
  } else {
    tell("The service does not answer. Try again with “Refresh”.");
  }
}

async function show() {
  // Answers to an earlier question that come late are left aside.
  const turn = ++asked;
  at("entry").hidden = true;
  at("tools").hidden = false;
  at("main").setAttribute("aria-busy", "true");
  tell("Loading figures…");
  try {
    const programs = await askPrograms();
    if (programs.length === 0) {
      throw new Refusal(403, "your token names no program that has been published.");
    }
    const wanted = sessionStorage.getItem(PROGRAM);
    const program = programs.find((each) => each.program_id === wanted) ?? programs[0];
    at("program").replaceChildren(
      ...programs.map((each) => element("option", { value: each.program_id }, each.title)),
    );
    at("program").value = program.program_id;
    const kinds = ["none", "month", ...DIMENSIONS.map(({ by }) => by)];
    const found = await Promise.all(kinds.map((by) => askKpis(program.program_id, by)));
    if (turn === asked) draw(program, Object.fromEntries(kinds.map((by, i) => [by, found[i]])));
  } catch (error) {
    if (turn === asked) fail(error);
  } finally {
    if (turn === asked) at("main").removeAttribute("aria-busy");
  }
}

function start() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("token")) {
    sessionStorage.setItem(TOKEN, given.get("token"));
    if (given.has("program")) sessionStorage.setItem(PROGRAM, given.get("program"));
    // Out of the address bar, the history and whatever is copied from there.
    history.replaceState(null, "", location.pathname);
  }
  if (sessionStorage.getItem(TOKEN)) show();
  else enter("");
}

at("entry-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, at("token").value.trim());
  at("token").value = "";
  show();
});
at("program").addEventListener("change", () => {
  sessionStorage.setItem(PROGRAM, at("program").value);
  show();
});
at("refresh").addEventListener("click", show);
at("leave").addEventListener("click", () => enter("You are signed out."));
addEventListener("hashchange", start);
start();
