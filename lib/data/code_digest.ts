/**
 * A digest of the code that turns rows into tokens: part of the key under which tokens are cached, so that a change of
 * that code never meets the tokens of its older self.
 * @module
 */
import { createHash } from "node:crypto";
import align from "../text/align.ts" with { type: "text" };
import bytes from "../text/bytes.ts" with { type: "text" };
import encode from "../text/encode.ts" with { type: "text" };
import answers from "../text/preference.ts" with { type: "text" };
import spans from "../text/spans.ts" with { type: "text" };
import template from "../text/template.ts" with { type: "text" };
import tokenizer from "../text/tokenizer.ts" with { type: "text" };
import tokenizerFiles from "../text/tokenizer_files.ts" with { type: "text" };
import columns from "./columns.ts" with { type: "text" };
import messages from "./messages.ts" with { type: "text" };
import preference from "./preference.ts" with { type: "text" };
import prepare from "./prepare.ts" with { type: "text" };

const SOURCES = [align, bytes, encode, answers, spans, template, tokenizer, tokenizerFiles, columns, messages]
  .concat(
    [preference, prepare],
  );

/** SHA-256 over the sources. */
export const CODE_DIGEST: string = createHash("sha256").update(JSON.stringify(SOURCES)).digest("hex");
