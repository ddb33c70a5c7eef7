/**
 * Finds a model or a data set, on this disk, in the cache that is shared with Python, or on the Hugging Face Hub,
 * and fetches what is missing: resumed, tried again, checked by hash.
 *
 * | variable | meaning |
 * | --- | --- |
 * | `HF_ENDPOINT` | address of the Hub; default `https://huggingface.co` |
 * | `HF_TOKEN` | access token; default: the file that `hf auth login` left |
 * | `HF_HOME`, `HF_HUB_CACHE` | where the cache is; default `~/.cache/huggingface`, and `hub` in it |
 * | `HF_HUB_OFFLINE` | `1`: only what is on this disk |
 * | `HF_HUB_DOWNLOAD_TIMEOUT` | seconds without a byte before a connection counts as lost; default 30 |
 *
 * @module
 */
export { fetchModel, type FetchModelOptions } from "./model.ts";
export { findLocal } from "./local.ts";
export { datasetFiles, fetchDataset, type FetchDatasetOptions } from "./dataset.ts";
export { pickTable, type SplitTable, splitTables } from "./splits.ts";
export { type Mirror, MIRRORS } from "./mirror.ts";
export {
  type FetchOptions,
  type FetchProgress,
  type HubSettings,
  hubSettings,
  nibbleCache,
} from "./settings.ts";
export { type HubFile, type HubRepo, openHubRepo, type OpenHubRepoOptions } from "./push.ts";
