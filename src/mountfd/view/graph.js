"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const svg = document.querySelector("#picture svg");
  const rows = new Map([...document.querySelectorAll("tr[data-key]")].map((row) => [row.dataset.key, row]));
  const parts = [...rows.keys()].map($).filter((part) => part && svg.contains(part));
  const edges = [...svg.querySelectorAll(".edge")];
  const mounts = [...rows.values()].filter((row) => row.dataset.kind === "mount");
  let chosen = null, pinned = null, scale = 1;

  // --- what a mount reaches --------------------------------------------------------------------------------------
  function reach(key) {
    const row = rows.get(key), found = new Set(), groups = new Set();
    const waiting = [row.dataset.kind === "group" ? key : row.dataset.group];
    while (waiting.length) {
      const group = waiting.pop();
      if (!group || groups.has(group)) continue;
      groups.add(group);
      for (const each of rows.values()) {
        const data = each.dataset;
        if (data.kind === "group") {
          if (data.from === group) waiting.push(data.key);
        } else if (data.group === group || data.master === group) {
          found.add(data.key);
          if (data.master === group) waiting.push(data.group);
        }
      }
    }
    if (!row.dataset.self) found.delete(key);
    return [found, groups];
  }

  function show(key) {
    if (chosen === key) return;
    chosen = key;
    const [found, groups] = key ? reach(key) : [new Set(), new Set()];
    const lit = new Set([...found, ...groups]);
    if (key) lit.add(key);
    svg.classList.toggle("chosen", key !== null && lit.size > 1);
    for (const part of parts) {
      part.classList.toggle("lit", lit.has(part.id));
      part.classList.toggle("here", part.id === key);
    }
    for (const edge of edges) {
      const [kind, start, end] = edge.id.split("--");
      edge.classList.toggle("lit", kind !== "cover" && lit.has(start) && lit.has(end));
    }
    tell(key, found);
  }

  function tell(key, found) {
    const panel = $("facts"), row = rows.get(key);
    panel.replaceChildren();
    panel.classList.toggle("empty", !row);
    if (!row) {
      panel.textContent = "Point at a mount, or choose one, to see its facts and where a mount made on it appears.";
      return;
    }
    const names = [...row.closest("table").tHead.rows[0].cells], list = document.createElement("dl");
    const add = (name, value) => {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name;
      dd.textContent = value;
      list.append(dt, dd);
    };
    names.forEach((name, at) => row.cells[at].textContent.trim() && add(name.textContent, row.cells[at].textContent));
    panel.append(list);
    const where = document.createElement("p"), places = [...found].map((each) => rows.get(each));
    where.className = "reach";
    where.textContent = places.length
      ? row.dataset.kind === "group" ? "A mount made on one of its members appears at:" : "A mount made here appears also at:"
      : "A mount made here appears nowhere else" + (key.startsWith("m") ? "." : " that is shown.");
    panel.append(where);
    const ul = document.createElement("ul");
    for (const place of places.slice(0, 40)) {
      const li = document.createElement("li"), small = document.createElement("small");
      li.textContent = place.cells[0].textContent + " ";
      small.textContent = place.dataset.where;
      li.append(small);
      ul.append(li);
    }
    if (places.length > 40) ul.append(`… and ${places.length - 40} more`);
    panel.append(ul);
  }

  // --- finding ---------------------------------------------------------------------------------------------------
  function find(text, go) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => words.every((word) => (row.textContent + row.dataset.where).toLowerCase().includes(word));
    const hits = [];
    for (const row of mounts) {
      const hit = words.length > 0 && fits(row), part = $(row.dataset.key);
      row.hidden = words.length > 0 && !hit;
      part.classList.toggle("hit", hit);
      if (hit) hits.push(part);
    }
    svg.classList.toggle("finding", words.length > 0);
    $("count").textContent = words.length ? `${hits.length} of ${mounts.length}` : "";
    if (go && hits.length) {
      const next = hits[(hits.findIndex((part) => part.id === pinned) + 1) % hits.length];
      pin(next.id);
      reveal(next);
    }
  }

  const pin = (key) => {
    pinned = key;
    show(key);
    for (const part of parts) part.tabIndex = part.id === (key || parts[0].id) ? 0 : -1;
  };

  function setScale(value) {
    scale = Math.min(4, Math.max(0.1, value));
    svg.style.width = `${svg.viewBox.baseVal.width * scale * 4 / 3}px`;
    svg.style.height = "auto";
  }
  const fit = () => {
    const frame = $("picture"), style = getComputedStyle(frame);
    const room = frame.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    setScale(Math.min(1, room / (svg.viewBox.baseVal.width * 4 / 3)));
  };

  function reveal(part) {
    const frame = $("picture"), box = part.getBoundingClientRect(), around = frame.getBoundingClientRect();
    frame.scrollLeft += box.x + box.width / 2 - around.x - around.width / 2;
    frame.scrollTop += box.y + box.height / 2 - around.y - around.height / 2;
  }

  function nearest(from, key) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    const middle = (part) => {
      const box = part.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    };
    const [left, top] = middle(from);
    let best = from, least = Infinity;
    for (const part of parts) {
      const [px, py] = middle(part), along = (px - left) * x + (py - top) * y;
      const aside = Math.abs((px - left) * y) + Math.abs((py - top) * x);
      if (along > 1 && along + 3 * aside < least) [best, least] = [part, along + 3 * aside];
    }
    return best;
  }

  // --- events ----------------------------------------------------------------------------------------------------
  // The browser's own small window would stand in the way of ours; the words stay as the part's name.
  for (const title of svg.querySelectorAll("title")) {
    const part = title.parentNode;
    if (part.classList.contains("node")) part.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  for (const part of parts) {
    part.setAttribute("role", "button");
    part.addEventListener("pointerenter", () => show(part.id));
    part.addEventListener("pointerleave", () => show(pinned));
    part.addEventListener("focus", () => show(part.id));
    part.addEventListener("click", () => {
      pin(pinned === part.id ? null : part.id);
      history.replaceState(null, "", pinned ? `#${pinned}` : "#");
    });
    part.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") part.dispatchEvent(new MouseEvent("click"));
      else if (event.key.startsWith("Arrow")) {
        const next = nearest(part, event.key);
        part.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      } else return;
      event.preventDefault();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      $("find").value = "";
      find("", false);
      pin(null);
    } else if (event.key === "/" && document.activeElement !== $("find")) {
      $("find").focus();
      event.preventDefault();
    }
  });
  $("find").addEventListener("input", () => find($("find").value, false));
  $("find").addEventListener("keydown", (event) => event.key === "Enter" && find($("find").value, true));
  $("larger").addEventListener("click", () => setScale(scale * 1.25));
  $("smaller").addEventListener("click", () => setScale(scale / 1.25));
  $("fit").addEventListener("click", fit);
  $("picture").addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    setScale(scale * Math.exp(-event.deltaY / 400));
  }, { passive: false });

  function follow() {
    const hash = location.hash.slice(1), sought = hash.match(/^find=(.*)$/s);
    if (sought) {
      try {
        $("find").value = decodeURIComponent(sought[1]);
      } catch {
        $("find").value = sought[1];
      }
      find($("find").value, false);
    } else if (rows.has(hash)) {
      pin(hash);
      scrollTo(0, 0);
      if ($(hash)) reveal($(hash));
    }
  }
  document.body.classList.add("live");
  tell(null);
  if (parts.length) pin(null);
  fit();
  // A browser moves the whole page to what the address names, once it is read; here the picture shall move.
  const named = location.hash;
  history.replaceState(null, "", "#");
  addEventListener("load", () => {
    if (named) history.replaceState(null, "", named);
    follow();
    addEventListener("hashchange", follow);
  });
})();
