"use strict";
(() => {
  const data = JSON.parse(document.getElementById("mistakes-data").textContent);
  const form = document.querySelector("#mistakes .filters");
  const matrix = document.querySelector(".matrix");
  const left = document.getElementById("matrix-left");
  const count = document.querySelector("#mistakes .count");
  const empty = document.querySelector("#mistakes .empty");
  const more = document.querySelector("#mistakes .more");
  const AT_ONCE = 30;
  let room = AT_ONCE;
  const cards = [...document.querySelectorAll("#mistakes .shot")];
  const dialog = document.querySelector("dialog.behind");
  const name = (number) => (number < 0 ? "nothing" : data.names[number]);
  const make = (tag, text, className) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };

  function said(shot, view) {
    const box = document.createDocumentFragment();
    const own = shot.said[view];
    if (!own) {
      box.append(make("p", "not asked", "none"));
      return box;
    }
    const right = own.p === shot.truth;
    const line = make("p", undefined, right ? "right-answer" : "wrong-answer");
    const sign = make("span", right ? "✓" : "✗", "sign");
    sign.setAttribute("role", "img");
    sign.setAttribute("aria-label", right ? "right" : "wrong");
    line.append(sign, ` named ${name(own.p)}`);
    if (own.s !== undefined) line.append(" ", make("small", `confidence ${own.s.toPrecision(2)}`));
    box.append(line);
    if (own.o) {
      const list = make("ol", undefined, "options");
      own.o.forEach((option, place) => {
        const item = make("li", name(option));
        if (place === own.k) item.append(" ", make("small", "is right"));
        else if (option === own.p) item.append(" ", make("small", "was chosen"));
        list.append(item);
      });
      box.append(list);
    }
    if (own.r !== undefined) {
      const reply = make("p", "reply ", "reply");
      reply.append(make("q", own.r));
      box.append(reply);
    }
    if (own.w !== undefined) box.append(make("p", `“${own.w}”`, "words"));
    return box;
  }

  function others(shot, view) {
    const rows = Object.entries(shot.said).filter(([number]) => Number(number) !== view);
    if (!rows.length) return null;
    const details = make("details");
    details.append(make("summary", `${rows.length} other answer${rows.length > 1 ? "s" : ""}`));
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      const list = make("ul", undefined, "others");
      for (const [number, own] of rows) {
        const right = own.p === shot.truth;
        const item = make("li", undefined, right ? "right-answer" : "wrong-answer");
        item.append(make("small", data.views[number].label), make("br"), `${right ? "✓" : "✗"} ${name(own.p)}`);
        list.append(item);
      }
      details.append(list);
    });
    return details;
  }

  function tell(card, view) {
    const shot = data.shots[card.dataset.shot];
    const box = card.querySelector(".said");
    box.replaceChildren(said(shot, view));
    const rest = others(shot, view);
    if (rest) box.append(rest);
  }

  function fits(shot, view, wanted) {
    const own = shot.said[view];
    if (!own) return false;
    const right = own.p === shot.truth;
    return (!wanted.right || right === (wanted.right === "right"))
      && (!wanted.group || data.groups[shot.truth] === wanted.group)
      && (wanted.truth === "" || shot.truth === Number(wanted.truth))
      && (wanted.named === "" || own.p === Number(wanted.named));
  }

  function filter() {
    const field = (key) => form.elements[key]?.value ?? "";
    const wanted = Object.fromEntries(["right", "group", "truth", "named"].map((key) => [key, field(key)]));
    const view = Number(field("view"));
    let shown = 0;
    for (const card of cards) {
      const there = fits(data.shots[card.dataset.shot], view, wanted);
      card.hidden = !there || shown >= room;
      if (!card.hidden) tell(card, view);
      shown += there;
    }
    more.hidden = shown <= room;
    more.firstElementChild.textContent = shown - room > AT_ONCE ? `Show ${AT_ONCE} more of ${shown - room}` : `Show ${shown - room} more`;
    let all = 0;
    for (const [truth, named, number] of data.views[view].pairs) {
      const right = truth === named;
      if ((!wanted.right || right === (wanted.right === "right")) && (!wanted.group || data.groups[truth] === wanted.group)
        && (wanted.truth === "" || truth === Number(wanted.truth)) && (wanted.named === "" || named === Number(wanted.named))) all += number;
    }
    const kind = wanted.right ? `${wanted.right} answer${all === 1 ? "" : "s"}` : `answer${all === 1 ? "" : "s"}`;
    count.textContent = `${all} ${kind} by ${data.views[view].arm}, ${data.views[view].label}`
      + (shown < all ? `; ${shown} of them have their picture in this page.` : ".");
    empty.hidden = shown > 0;
  }

  function open(view, truth, named, number) {
    const own = cards.filter((card) => {
      const shot = data.shots[card.dataset.shot];
      return shot.truth === truth && shot.said[view]?.p === named;
    });
    dialog.querySelector("h3").textContent = truth === named ? `${name(truth)}, named rightly` : `${name(truth)}, named ${name(named)}`;
    dialog.querySelector(".note").textContent = `${number} picture${number > 1 ? "s" : ""}`
      + (own.length < number ? `, ${own.length || "none"} of them in this page` : "") + `, ${data.views[view].arm} by ${data.views[view].label}.`;
    const sheet = dialog.querySelector(".sheet");
    sheet.replaceChildren(...own.map((card) => {
      const copy = card.cloneNode(true);
      copy.hidden = false;
      tell(copy, view);
      return copy;
    }));
    dialog.showModal();
  }

  function draw() {
    const number = Number(form.elements.view.value);
    const view = data.views[number];
    const cells = new Map(view.pairs.map(([truth, named, n]) => [`${truth} ${named}`, n]));
    const columns = view.nothing ? [...view.order, -1] : view.order;
    const most = Math.max(1, ...view.pairs.filter(([t, p]) => t !== p).map((pair) => pair[2]));
    const head = make("thead");
    const top = make("tr");
    top.append(make("td"));
    for (const column of columns) {
      const cell = make("th");
      cell.scope = "col";
      cell.append(make("span", name(column)));
      top.append(cell);
    }
    head.append(top);
    const body = make("tbody");
    for (const truth of view.order) {
      const row = make("tr");
      const title = make("th", name(truth));
      title.scope = "row";
      row.append(title);
      for (const named of columns) {
        const cell = make("td");
        const n = cells.get(`${truth} ${named}`);
        if (n) {
          const button = make("button", String(n));
          button.type = "button";
          button.tabIndex = -1;
          button.className = truth === named ? "hit" : `heat-${Math.ceil((4 * n) / most)}`;
          button.setAttribute("aria-label", `${n} of ${name(truth)} named ${name(named)}`);
          button.title = `${name(truth)} named ${name(named)}: ${n}`;
          button.addEventListener("click", () => open(number, truth, named, n));
          cell.append(button);
        }
        row.append(cell);
      }
      body.append(row);
    }
    matrix.replaceChildren(head, body);
    const first = matrix.querySelector("button:not(.hit)") ?? matrix.querySelector("button");
    if (first) first.tabIndex = 0;
    left.textContent = view.left;
  }

  // Left and right go through all cells in reading order, up and down to the nearest cell of the next row with one.
  matrix.addEventListener("keydown", (event) => {
    const at = event.target.closest("button");
    const buttons = [...matrix.querySelectorAll("button")];
    const place = buttons.indexOf(at);
    const row = (button) => button.closest("tr").rowIndex;
    const column = (button) => button.parentElement.cellIndex;
    const nearest = (wanted, last) => {
      const there = buttons.filter(wanted);
      if (!there.length) return undefined;
      const line = row(last ? there.at(-1) : there[0]);
      const away = (button) => Math.abs(column(button) - column(at));
      return there.filter((button) => row(button) === line).sort((a, b) => away(a) - away(b))[0];
    };
    const moves = {
      ArrowRight: () => buttons[place + 1],
      ArrowLeft: () => buttons[place - 1],
      ArrowDown: () => nearest((button) => row(button) > row(at), false),
      ArrowUp: () => nearest((button) => row(button) < row(at), true),
      Home: () => buttons[0],
      End: () => buttons.at(-1),
    };
    if (place < 0 || !(event.key in moves)) return;
    event.preventDefault();
    const next = moves[event.key]();
    if (!next) return;
    at.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  more.firstElementChild.addEventListener("click", () => {
    room += AT_ONCE;
    filter();
    cards.filter((card) => !card.hidden)[room - AT_ONCE]?.querySelector("summary")?.focus();
  });
  form.addEventListener("input", (event) => {
    room = AT_ONCE;
    if (event.target.name === "view") draw();
    filter();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { room = AT_ONCE; draw(); filter(); }));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  draw();
  filter();
})();
