/**
 * Keys of the Python stack that are no settings here: those with nothing to act on, which are read and
 * reported, and those that would change the result but are not built, which are refused.
 * @module
 */

/** Reason to the keys it covers, apart by spaces. */
const REASONS: Readonly<Record<string, string>> = {
  "uploads follow each other and none is skipped": "hub_always_push",
  "the repository's full name goes into hub_model_id": "push_to_hub_organization",
  "there is one device here": `ddp_timeout ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ignore_bias_buffers deepspeed fsdp fsdp_config fsdp_min_num_params
    fsdp_transformer_layer_cls_to_wrap
    accelerator_config parallelism_config local_rank tpu_num_cores tpu_metrics_debug mp_parameters _n_gpu
    average_tokens_across_devices log_on_each_node save_on_each_node log_level_replica past_index
    eval_use_gather_object ray_scope`,
  "the kernels are nibble's own": `attn_implementation use_liger_kernel liger_kernel_config use_liger_loss
    torch_compile torch_compile_backend torch_compile_mode torchdynamo jit_mode_eval tf32
    torch_empty_cache_steps use_flash_attention_2 no_cuda use_cpu use_mps_device activation_offloading
    use_logits_to_keep full_determinism`,
  "WebGPU has no bfloat16; precision is chosen for the adapter and sums are float32":
    `bf16 fp16 fp16_opt_level
    fp16_backend half_precision_backend bf16_full_eval fp16_full_eval bnb_4bit_compute_dtype`,
  "packed 4-bit values are bytes on the device; deno task quantize has it for files":
    "bnb_4bit_quant_storage",
  "no Python code of a model is ever run":
    "trust_remote_code model_code_revision model_init_kwargs ref_model_init_kwargs",
  "layers are recomputed in one way only": "gradient_checkpointing_kwargs activation_checkpointing_kwargs",
  "training keeps no keys and values": "use_cache",
  "a signal lets the step in progress end, and saves": "enable_jit_checkpoint",
  "rows are read and tokenized in this process":
    `dataset_num_proc preprocessing_num_workers dataset_batch_size num_of_sequences
    chars_per_token dataloader_num_workers dataloader_prefetch_factor dataloader_pin_memory
    dataloader_persistent_workers dataloader_in_order dataloader_multiprocessing_context
    eval_accumulation_steps`,
  "columns that are not needed are never kept": "remove_unused_columns label_names",
  "attention never crosses examples, and batches are padded to a multiple of 8":
    "padding_free pad_to_multiple_of",
  "rows are put into a new order every epoch":
    "shuffle_dataset train_sampling_strategy group_by_length length_column_name",
  "the log is always written to the terminal and to output_dir": `log_level logging_dir logging_nan_inf_filter
    disable_tqdm project trackio_space_id trackio_bucket_id trackio_static_space_id
    include_tokens_per_second include_num_input_tokens_seen skip_memory_metrics`,
  "a run that was stopped goes on from its newest checkpoint; resume_from_checkpoint: false starts afresh":
    "overwrite_output_dir",
  "training is what this command does": "do_train do_predict",
  "checkpoints are safetensors, and hold all that going on needs": `save_safetensors
    restore_callback_states_from_checkpoint ignore_data_skip`,
  "evaluation returns loss and token counts":
    `prediction_loss_only include_inputs_for_metrics include_for_metrics
    eval_do_concat_batches batch_eval_metrics use_legacy_prediction_loop generate_during_eval`,
  "adapters of a decoder, switched on and off by nibble":
    `lora_task_type is_encoder_decoder model_adapter_name
    ref_adapter_name force_use_ref_model base_model_attribute_name`,
  "padding is masked by position": "padding_value label_pad_token_id",
  "scores of the reference are computed in batches of per_device_eval_batch_size":
    "precompute_ref_batch_size",
  "a recipe does not change the environment; set the variables in your shell": "env",
  "memory is planned before the run; nothing is retried": "auto_find_batch_size",
};

/** Key to the reason why it has no effect here. */
export const IGNORED_KEYS: ReadonlyMap<string, string> = new Map(
  Object.entries(REASONS).flatMap(([reason, keys]) =>
    keys.split(/\s+/).filter(Boolean).map((key): [string, string] => [key, reason])
  ),
);

/** A key that nibble has not built: harmless at its default, refused at any other value. */
export interface UnbuiltKey {
  /** The value at which the Python stack does nothing with it. */
  readonly off: unknown;
  /** What is missing. */
  readonly reason: string;
}

/** Keys that would change the result. Null and the value that switches them off are accepted. */
export const UNBUILT_KEYS: ReadonlyMap<string, UnbuiltKey> = new Map(
  ([
    ["load_in_8bit", false, "a base in 8 bits; load_in_4bit is there"],
    ["dataloader_drop_last", false, "dropping the last batch of an epoch"],
    ["label_smoothing_factor", 0, "label smoothing of text"],
    ["optim_target_modules", null, "optimizers for chosen modules (GaLore)"],
    ["adafactor", false, "the old switch of Adafactor; write optim: adafactor"],
    ["lora_target_parameters", null, "adapters on bare parameters"],
    ["router_aux_loss_coef", 0.001, "another weight of the routing loss than config.json's"],
    ["loss_weights", null, "several preference losses at once"],
    ["use_weighting", false, "weighted preference pairs (WPO)"],
    ["ld_alpha", null, "length-desensitised DPO"],
    ["f_divergence_type", "reverse_kl", "divergences other than reverse_kl"],
    ["f_alpha_divergence_coef", undefined, "divergences other than reverse_kl"],
    ["sync_ref_model", false, "a reference model that follows the policy"],
    ["ref_model_mixup_alpha", undefined, "a reference model that follows the policy"],
    ["ref_model_sync_steps", undefined, "a reference model that follows the policy"],
    ["max_target_length", null, "encoder-decoder models"],
    ["tools", null, "tools given by the recipe; rows may bring their own"],
  ] as [string, unknown, string][]).map(([key, off, reason]) => [key, { off, reason }]),
);
