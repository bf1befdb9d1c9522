// Just enough of a browser to run the live page's script: elements that keep their children and text.
const fs = require("fs");
const [page, stateFile] = process.argv.slice(2);
class Node {
  constructor(tag) { this.tag = tag; this.children = []; this.attributes = {}; this.style = {}; this.dataset = {}; this.className = ""; this.value = ""; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  append(...kids) { this.children.push(...kids); }
  replaceChildren(...kids) { this.children = kids; }
  set textContent(text) { this.children = [text]; }
  get textContent() { return this.children.map(kid => kid instanceof Node ? kid.textContent : String(kid)).join("|"); }
}
const named = {};
globalThis.Node = Node;
globalThis.document = {
  createElement: tag => new Node(tag), createElementNS: (_, tag) => new Node(tag), createTextNode: text => text,
  getElementById: name => (named[name] ??= new Node(name)),
};
const state = JSON.parse(fs.readFileSync(stateFile));
globalThis.fetch = async () => ({ ok: true, status: 200, json: async () => state });
globalThis.setInterval = () => 0;
const script = fs.readFileSync(page, "utf8").match(/<script>([\s\S]*)<\/script>/)[1];
new Function(script)();
setTimeout(() => { console.log(named.title.textContent); console.log(named.note.textContent); console.log(named.main.textContent); }, 50);
