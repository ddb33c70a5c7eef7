/**
 * How one setting is declared, and how its TypeScript type follows from the declaration.
 * @module
 */

/** What a run trains: answers, preference pairs against a reference or by odds ratio, judged answers, plain text. */
export type Task = "sft" | "dpo" | "orpo" | "kto" | "cpt";

/** Whose script a recipe was written for: it decides a few defaults. */
export type Dialect = "main" | "legacy";

/** One data set of a mixture, as the alignment-handbook's `DatasetConfig`. */
export interface DatasetEntry {
  /** Hub name or local folder. */
  id: string;
  /** Configuration (subset) of the data set; null for its only one. */
  config: string | null;
  /** Split to read. */
  split: string;
  /** Columns to keep; null keeps all. */
  columns: string[] | null;
  /** Share of its rows to take, 0 to 1; by TRL's rule its part of the mixture, null where all rows are taken. */
  weight: number | null;
}

/** Several data sets poured together, shuffled, and divided again. */
export interface DatasetMixture {
  /** The parts, in order. */
  datasets: DatasetEntry[];
  /** Seed of the shuffles and of the division. */
  seed: number;
  /** Rows (1 or more) or share (below 1) set aside for evaluation; null sets none aside. */
  test_split_size: number | null;
  /** How parts are taken and joined; absent: as the handbook does. See `mixDatasets`. */
  rule?: "trl";
}

/** The TypeScript type behind each kind of setting. */
export interface KindTypes {
  /** Text. */
  string: string;
  /** Whole number. */
  int: number;
  /** Number. */
  float: number;
  /** true or false. */
  bool: boolean;
  /** List of texts; a lone text becomes a list of one. */
  list: string[];
  /** `all-linear`, a regular expression, or a list of module names. */
  names: string | string[];
  /** Nested keys, passed on as they are. */
  map: Record<string, unknown>;
  /** Data set to share of its rows. */
  mixer: Record<string, number>;
  /** See {@link DatasetMixture}. */
  mixture: DatasetMixture;
}

/** A kind's name; `choice` takes its type from the choices, and `?` allows null. */
export type Kind = keyof KindTypes | "choice" | `${keyof KindTypes}?` | "choice?";

/** One row of the table: everything that reading, checking, help and documentation need to know. */
export interface Setting {
  /** Type of the value; a trailing `?` allows null. */
  readonly type: Kind;
  /** Value where neither recipe nor command line gives one. */
  readonly default: unknown;
  /** Where the default comes from: Trainer 4.57, TRL 0.19, handbook, nibble ... */
  readonly from: string;
  /** One or two sentences for `--help`. */
  readonly doc: string;
  /** Allowed values of a `choice` (or of an `int`). */
  readonly choices?: readonly (string | number)[];
  /** Smallest value allowed. */
  readonly min?: number;
  /** Largest value allowed. */
  readonly max?: number;
  /** The value must be greater than this. */
  readonly above?: number;
  /** The value must be less than this. */
  readonly below?: number;
  /** Defaults that differ by task. */
  readonly byTask?: Readonly<Partial<Record<Task, unknown>>>;
  /** Tasks in which the key matters; all when absent. */
  readonly tasks?: readonly Task[];
  /** Name of the boolean setting without which the key has no effect. */
  readonly needs?: string;
  /** Why the key is read but changes nothing here. */
  readonly noEffect?: string;
  /** A password or token: never written into a recipe, a card or a table. */
  readonly secret?: boolean;
  /** What is missing, where any value but the default is refused because it would change the result. */
  readonly unbuilt?: string;
}

/** Type of one setting's value, from its row. */
export type ValueOf<S extends Setting> = S["type"] extends "choice" ? Choice<S>
  : S["type"] extends "choice?" ? Choice<S> | null
  : S["type"] extends keyof KindTypes ? KindTypes[S["type"]]
  : S["type"] extends `${infer K extends keyof KindTypes}?` ? KindTypes[K] | null
  : never;

/** The union of a row's choices. */
export type Choice<S extends Setting> = S extends { readonly choices: readonly (infer C)[] } ? C : never;
