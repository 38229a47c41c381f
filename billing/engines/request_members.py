"""Which top-level members of a request may reach an engine.

Decides: the members that OpenAI documents per route, those that common engines add for sampling,
and those that only the operator may set, which are cut out of a client's request: they change
scheduling, cache isolation or what runs, for other tenants too. Everything else is refused, so
that a new engine feature cannot be used before someone has judged what it costs.
"""

from __future__ import annotations

from billing.admission.route import Route
from billing.engines import image_request, messages_request, rerank_request, responses_request


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPENAI_MEMBERS: dict[Route, frozenset[str]] = {
    Route.CHAT_COMPLETIONS: _names(
        "messages model audio frequency_penalty function_call functions logit_bias logprobs"
        " max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls"
        " prediction presence_penalty prompt_cache_key prompt_cache_options"
        " prompt_cache_retention reasoning_effort response_format safety_identifier seed"
        " service_tier stop store stream stream_options temperature tool_choice tools"
        " top_logprobs top_p user verbosity web_search_options"
    ),
    Route.COMPLETIONS: _names(
        "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n"
        " presence_penalty seed stop stream stream_options suffix temperature top_p user"
    ),
    Route.EMBEDDINGS: _names("model input dimensions encoding_format user"),
    Route.RESPONSES: responses_request.MEMBERS,
    Route.MESSAGES: messages_request.MEMBERS,
    Route.COUNT_TOKENS: messages_request.COUNTED,
    Route.RERANK: rerank_request.MEMBERS,
    Route.SPEECH: image_request.SPEECH_MEMBERS,
    Route.IMAGES: image_request.IMAGE_MEMBERS,
}

COMMON_SAMPLING = _names(
    "top_k min_p repetition_penalty min_tokens stop_token_ids ignore_eos skip_special_tokens"
    " guided_json guided_regex guided_choice guided_grammar chat_template_kwargs"
    " continue_final_message add_generation_prompt include_stop_str_in_output"
    " truncate_prompt_tokens"
)

VLLM = _names(
    "length_penalty bad_words allowed_token_ids spaces_between_special_tokens prompt_logprobs"
    " add_special_tokens documents structured_outputs guided_decoding_backend"
    " guided_whitespace_pattern use_beam_search include_reasoning echo thinking_token_budget"
    " return_tokens_as_token_ids return_token_ids"
)

SGLANG = _names(
    "regex ebnf json_schema no_stop_trim stop_regex separate_reasoning stream_reasoning"
)

LLAMA_CPP = _names(
    "grammar json_schema typical_p repeat_penalty repeat_last_n mirostat mirostat_tau"
    " mirostat_eta dynatemp_range dynatemp_exponent xtc_probability xtc_threshold"
    " dry_multiplier dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers"
    " n_probs samplers reasoning_format parse_tool_calls"
)

OPERATOR_CONTROLLED = _names(
    "priority nvext cache_salt chat_template request_id rid kv_transfer_params vllm_xargs"
    " logits_processors mm_processor_kwargs media_io_kwargs data_parallel_rank"
    " routed_data_parallel_rank bootstrap_host bootstrap_port bootstrap_room lora_path"
    " session_params session_id disaggregated_params extra_key custom_logit_processor"
    " custom_params return_hidden_states id_slot cache_prompt lora slot_id generation_config"
)
