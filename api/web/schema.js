// The interface document as a page, with no code from anywhere else: every operation, its parameters, an example, and a form to try it.

import { byId, element } from "./dom.js";

const document_ = await (await fetch("/schema/openapi.json")).json();
const resolve = (thing) => (thing?.$ref ? resolve(thing.$ref.slice(2).split("/").reduce((at, key) => at[key.replaceAll("~1", "/")], document_)) : thing);

function typeName(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  const options = schema.oneOf ?? schema.anyOf;
  if (options) return options.map(typeName).join(" | ");
  if (schema.type === "array") return `${typeName(schema.items)}[]`;
  return Array.isArray(schema.type) ? schema.type.join(" | ") : (schema.type ?? "any");
}

const rows = (pairs) => element("table", {}, ...pairs.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell)))));
const heading = (text) => element("h3", {}, text);
const example = (content) => resolve(Object.values(content?.examples ?? {})[0])?.value ?? content?.example;
const code = (value) => element("pre", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));

// `code` in a description, as an element.
const prose = (text) => element("p", {}, ...text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part)));

function form(path, parameters) {
  const inputs = parameters.map((parameter) => {
    const input = element("input", { "aria-label": parameter.name, placeholder: String(parameter.schema?.default ?? "") });
    input.value = parameter.example ?? resolve(Object.values(parameter.examples ?? {})[0])?.value ?? "";
    return { parameter, input };
  });
  const output = element("pre", { hidden: "" });
  const button = element("button", { type: "button" }, "Try it");
  button.addEventListener("click", async () => {
    let address = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const { parameter, input } of inputs) {
      if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value && parameter.in === "query") query.append(parameter.name, input.value);
      else if (input.value && parameter.in === "header") headers[parameter.name] = input.value;
    }
    const response = await fetch(query.size ? `${address}?${query}` : address, { headers });
    const text = await response.text();
    const pretty = /json/.test(response.headers.get("content-type") ?? "") && text ? JSON.stringify(JSON.parse(text), null, 2) : text;
    output.hidden = false;
    output.textContent = `${response.status} ${response.statusText}\n${pretty}`;
  });
  return { inputs, button, output };
}

function operation(path, method, described) {
  const parameters = (described.parameters ?? []).map(resolve);
  const { inputs, button, output } = form(path, parameters);
  const tryable = method === "get" && path !== "/v1/events";
  const inside = element("div", { class: "inside" });
  if (described.description) inside.append(prose(described.description));
  if (inputs.length) {
    inside.append(
      heading("Parameters"),
      rows(inputs.map(({ parameter, input }) => [parameter.name, typeName(parameter.schema), prose(parameter.description ?? ""), ...(tryable ? [input] : [])])),
    );
  }
  for (const [type, content] of Object.entries(resolve(described.requestBody)?.content ?? {})) {
    inside.append(heading(`Body: ${type}`));
    if (example(content) !== undefined) inside.append(code(example(content)));
  }
  for (const [status, referenced] of Object.entries(described.responses ?? {})) {
    const response = resolve(referenced);
    const [type, content] = Object.entries(response.content ?? {})[0] ?? [];
    inside.append(heading(`${status} ${response.description ?? ""} ${type ? `· ${Object.keys(response.content).join(", ")} · ${typeName(content.schema)}` : ""}`));
    if (example(content) !== undefined) inside.append(code(example(content)));
  }
  if (tryable) inside.append(button, output);
  return element(
    "details",
    { class: "operation", id: described.operationId },
    element("summary", {}, element("span", { class: `method ${method}` }, method.toUpperCase()), element("code", {}, path), element("span", { class: "quiet" }, described.summary ?? "")),
    inside,
  );
}

const byTag = new Map();
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, described] of Object.entries(methods)) {
    const tag = described.tags?.[0] ?? "other";
    byTag.set(tag, [...(byTag.get(tag) ?? []), operation(path, method, described)]);
  }
}
const sections = [...byTag].flatMap(([tag, operations]) => [element("h2", { class: "tag" }, tag), ...operations]);
byId("operations").replaceChildren(element("p", { class: "quiet" }, document_.info.description ?? ""), ...sections);
if (location.hash) document.getElementById(location.hash.slice(1))?.setAttribute("open", "");
