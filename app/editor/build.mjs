// Makes vendor/ from the packages of package-lock.json:  npm ci && npm run build
//
// vendor/parts.js        one ESM file, minified          vendor/react-flow.css   React Flow's style sheet, as it is
// vendor/LICENSES.txt    the licence of every package in it      vendor/made.json    what it was made from, for the test
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const digest = (file) => createHash("sha256").update(readFileSync(file, "utf8").replaceAll("\r\n", "\n")).digest("hex");

mkdirSync("vendor", { recursive: true });
const made = await build({
  entryPoints: ["vendor.js"],
  outfile: "vendor/parts.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  define: { "process.env.NODE_ENV": '"production"' },
  legalComments: "none",
  banner: { js: "// React, React DOM, React Flow, htm, dagre and what they need. Made by build.mjs; licences: LICENSES.txt." },
  metafile: true,
});
writeFileSync("vendor/react-flow.css", readFileSync("node_modules/@xyflow/react/dist/style.css"));

const packages = new Set(
  Object.keys(made.metafile.inputs)
    .map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1])
    .filter(Boolean),
);
const texts = [...packages].sort().map((name) => {
  const folder = `node_modules/${name}`;
  const about = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  if (!file) throw new Error(`${name} brings no licence text`);
  return `${name} ${about.version} (${about.license})\n${"=".repeat(72)}\n\n${readFileSync(`${folder}/${file}`, "utf8").trim()}\n`;
});
writeFileSync("vendor/LICENSES.txt", texts.join("\n\n"));

// Addresses of downloads say nothing that the hashes do not, and tie the file to one registry.
const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
for (const each of Object.values(lock.packages)) delete each.resolved;
writeFileSync("package-lock.json", JSON.stringify(lock, null, 2) + "\n");

const from = Object.fromEntries(["vendor.js", "build.mjs", "package-lock.json"].map((file) => [file, digest(file)]));
const to = Object.fromEntries(["parts.js", "react-flow.css", "LICENSES.txt"].map((file) => [file, digest(`vendor/${file}`)]));
writeFileSync("vendor/made.json", JSON.stringify({ from, to }, null, 1) + "\n");
console.log(`${packages.size} packages, ${(made.metafile.outputs["vendor/parts.js"].bytes / 1000).toFixed(0)} kB`);
