"use strict";
// The server writes the page; this brings what has changed into the one that is
// shown. Elements stay the same ones, so that the focus stays where it is.
const main = document.querySelector("main");
const said = document.getElementById("said");
const news = document.getElementById("news");

function tell(element, text) {
	if (element.textContent !== text) element.textContent = text;
}

function sections(root) {
	return [...root.querySelectorAll("section")];
}

function take(text, answer) {
	const next = new DOMParser().parseFromString(text, "text/html");
	const fresh = next.querySelector("main");
	if (!fresh || !next.getElementById("news")) throw new Error("this is another page");
	if (answer) tell(said, next.getElementById("said").textContent);
	for (const old of sections(main)) {
		if (next.getElementById(old.id)) continue;
		tell(news, old.querySelector("h2").textContent + ": the move is over.");
		old.remove();
	}
	const known = sections(main).length > 0;
	if (!known) main.replaceChildren();
	for (const section of [...fresh.children]) {
		const old = known && document.getElementById(section.id);
		if (!old) main.append(section);
		else update(old, next);
	}
}

function update(section, next) {
	for (const to of section.querySelectorAll("[id]")) {
		const from = next.getElementById(to.id);
		if (!from) continue;
		for (const {name} of [...to.attributes]) if (!from.hasAttribute(name)) to.removeAttribute(name);
		for (const {name, value} of from.attributes) if (to.getAttribute(name) !== value) to.setAttribute(name, value);
		if (from.hasAttribute("data-live") && to.innerHTML !== from.innerHTML) to.innerHTML = from.innerHTML;
	}
}

const lost = "The server doesn't answer, or you are no longer signed in. What is shown is out of date.";

let asked = 0, shown = 0; // answers may overtake each other: an older one says nothing new

async function ask(options) {
	const number = ++asked;
	try {
		const answer = await fetch("?", {...options, credentials: "same-origin", signal: AbortSignal.timeout(10000)});
		const text = await answer.text();
		if (number < shown) return;
		take(text, Boolean(options));
		shown = number;
		if (news.textContent === lost) tell(news, "");
	} catch {
		if (number < shown) return;
		tell(news, lost);
	}
}

document.addEventListener("submit", event => {
	event.preventDefault();
	ask({method: "POST", body: new URLSearchParams(new FormData(event.target, event.submitter))});
});

async function watch() {
	await ask();
	setTimeout(watch, document.hidden ? 10000 : 1000);
}
setTimeout(watch, 1000);
