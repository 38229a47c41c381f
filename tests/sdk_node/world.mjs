// What every flow works with: where the proxy is, and a witness of each call.

const { STEELYARD_URL, STEELYARD_KEY } = process.env;

export const proxy = STEELYARD_URL;
export const key = STEELYARD_KEY;
export const messages = [{ role: 'user', content: 'grüße' }];

/** A `fetch` that changes nothing, and keeps status and request id of every answer. */
export function witness() {
  const calls = [];
  const fetch = async (url, init) => {
    const answer = await globalThis.fetch(url, init);
    calls.push({ status: answer.status, id: answer.headers.get('x-steelyard-request-id') });
    return answer;
  };
  return { calls, fetch };
}

/** Usage as chat completions tell it, in the classes of the ledger. */
export function ofChat(usage) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  return {
    input: usage.prompt_tokens - cached,
    cached_input: cached,
    output: usage.completion_tokens ?? 0,
  };
}

/** Usage as the responses API tells it. */
export function ofResponse(usage) {
  const cached = usage.input_tokens_details?.cached_tokens ?? 0;
  return { input: usage.input_tokens - cached, cached_input: cached, output: usage.output_tokens };
}

/** Usage as messages tell it; what is written to the cache is plain input to this deployment. */
export function ofMessage(usage) {
  return {
    input: usage.input_tokens + (usage.cache_creation_input_tokens ?? 0),
    cached_input: usage.cache_read_input_tokens ?? 0,
    output: usage.output_tokens,
  };
}

/** Usage as the `ai` package tells it. */
export function ofAi(usage) {
  const cached = usage.inputTokenDetails?.cacheReadTokens ?? 0;
  return { input: usage.inputTokens - cached, cached_input: cached, output: usage.outputTokens };
}

/** The error that a promise must reject with. */
export async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('nothing was refused');
}
