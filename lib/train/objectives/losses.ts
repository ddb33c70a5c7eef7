/**
 * Names of the losses of tasks that have several; no code, so that recipes are read without the kernels.
 * @module
 */

/**
 * DPO's losses, in the order of `LOSS` in wgsl/preference_loss.wgsl, under TRL's names: those of 0.19's DPOTrainer,
 * and `kto_pair` as 0.8.6 had it (the only one whose pairs see each other: its estimate of the divergence is a mean
 * over the micro-batch).
 */
export const DPO_LOSSES = [
  "sigmoid",
  "robust",
  "hinge",
  "ipo",
  "exo_pair",
  "nca_pair",
  "sppo_hard",
  "apo_zero",
  "apo_down",
  "discopop",
  "kto_pair",
] as const;
