// Two connections: /socket takes the draft and answers with the number of saves, /events tells what is saved.

const element = (id) => document.getElementById(id);
const text = element("text");
const loggedOut = 4001; // the code that closes the socket when the session has ended
const pause = 300; // milliseconds without a key until the draft is sent
const retry = 1000; // milliseconds until another try to connect

let ended = false;
let socket;
let timer;
let unsent = false; // there is text that the server may not have
let underway = 0; // messages that were not answered yet

function end() {
	ended = true;
	events.close();
	socket.close();
	text.readOnly = true;
	element("state").textContent = "Not connected";
	element("ended").hidden = false;
}

function show(state) {
	if (!ended) element("state").textContent = state;
}

function send() {
	if (socket.readyState !== WebSocket.OPEN) return;
	socket.send(text.value);
	unsent = false;
	underway++;
	show("Saving");
}

function connect() {
	socket = new WebSocket("/socket");
	underway = 0;
	socket.onopen = () => (unsent ? send() : show("Connected"));
	socket.onmessage = (message) => {
		underway--;
		if (underway === 0 && !unsent) show(`Saved, for the ${message.data}${ordinal(message.data)} time`);
	};
	socket.onclose = (close) => {
		if (ended) return;
		if (close.code === loggedOut) return end();
		unsent ||= underway > 0;
		show("Connecting again");
		setTimeout(() => ended || connect(), retry);
	};
}

function ordinal(n) {
	if (n % 100 >= 11 && n % 100 <= 13) return "th";
	return { 1: "st", 2: "nd", 3: "rd" }[n % 10] ?? "th";
}

text.addEventListener("input", () => {
	unsent = true;
	clearTimeout(timer);
	timer = setTimeout(send, pause);
});

const events = new EventSource("/events");
events.addEventListener("draft", (event) => {
	const saved = JSON.parse(event.data);
	element("shown").textContent = saved.text;
	element("counts").textContent = `Saves: ${saved.saves}. Messages to this session's tabs: ${saved.messages}.`;
	if (document.activeElement !== text && !unsent && underway === 0) text.value = saved.text;
});
events.addEventListener("ended", end);
events.onerror = () => {
	if (events.readyState === EventSource.CLOSED && !ended) end(); // refused: nobody is logged in
};

connect();
