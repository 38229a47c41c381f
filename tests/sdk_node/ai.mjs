// Flows of the `ai` package, over `@ai-sdk/openai-compatible` and `@ai-sdk/anthropic`.

import assert from 'node:assert/strict';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { key, ofAi, proxy, refusal } from './world.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

const prompt = 'grüße';

const provider = (fetch, options = {}) =>
  createOpenAICompatible({
    name: 'steelyard',
    apiKey: key,
    baseURL: `${proxy}/v1`,
    includeUsage: true,
    fetch,
    ...options,
  });

const messages = (fetch) => createAnthropic({ apiKey: key, baseURL: `${proxy}/v1`, fetch });

const generate = (fetch, name, options = {}, own = {}) =>
  generateText({ model: provider(fetch, own)(name), prompt, maxRetries: 0, ...options });

/** A stream read to its end; the package tells errors on the side. */
async function read(options) {
  const errors = [];
  const result = streamText({
    prompt,
    maxRetries: 0,
    ...options,
    onError: ({ error }) => errors.push(error),
  });
  const text = [];
  for await (const piece of result.textStream) text.push(piece);
  if (errors.length) throw errors[0];
  return { result, text };
}

const weather = (cities) => ({
  weather: tool({
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      cities.push(city);
      return 'rain';
    },
  }),
});

async function repeated(fetch, model) {
  const answer = await generate(fetch, model, { maxRetries: 3 });
  return { told: ofAi(answer.usage) };
}

export const flows = {
  async whole(fetch) {
    const answer = await generate(fetch, 'plain');
    assert.equal(answer.text, 'hello');
    return { told: ofAi(answer.usage) };
  },

  async stream(fetch) {
    const { result, text } = await read({ model: provider(fetch)('plain') });
    assert.equal(text.join(''), ' 0 1 2 3 4');
    return { told: ofAi(await result.usage) };
  },

  async tools_in_a_stream(fetch) {
    const cities = [];
    const model = provider(fetch)('tools');
    const { result } = await read({ model, tools: weather(cities), stopWhen: stepCountIs(1) });
    assert.deepEqual(cities, ['Köln']);
    assert.equal(await result.finishReason, 'tool-calls');
    return { told: ofAi(await result.usage) };
  },

  async structured_output(fetch) {
    const output = Output.object({ schema: z.object({ name: z.string() }) });
    const own = { supportsStructuredOutputs: true };
    const answer = await generate(fetch, 'json', { output }, own);
    assert.deepEqual(answer.output, { name: 'Köln' });
    return { told: ofAi(answer.usage) };
  },

  async embeddings(fetch) {
    const model = provider(fetch).embeddingModel('embed');
    const answer = await embedMany({ model, values: ['a'], maxRetries: 0 });
    assert.deepEqual(answer.embeddings, [[0.5, -2]]);
    return { told: { input: answer.usage.tokens, cached_input: 0, output: 0 } };
  },

  async messages(fetch) {
    const model = messages(fetch)('plain');
    const answer = await generateText({ model, prompt, maxRetries: 0 });
    assert.equal(answer.text, 'hello');
    return { told: ofAi(answer.usage) };
  },

  async messages_stream(fetch) {
    const { result, text } = await read({ model: messages(fetch)('plain') });
    assert.equal(text.join(''), ' 0 1 2 3 4');
    return { told: ofAi(await result.usage) };
  },

  async messages_tools_in_a_stream(fetch) {
    const cities = [];
    const model = messages(fetch)('tools');
    const { result } = await read({ model, tools: weather(cities), stopWhen: stepCountIs(1) });
    assert.deepEqual(cities, ['Köln']);
    return { told: ofAi(await result.usage) };
  },

  async wrong_key(fetch) {
    const error = await refusal(generate(fetch, 'plain', {}, { apiKey: 'sk-sy-wrong' }));
    assert.deepEqual([error.statusCode, error.isRetryable], [401, false]);
    return {};
  },

  async unknown_model(fetch) {
    const error = await refusal(generate(fetch, 'nobody'));
    assert.equal(error.statusCode, 404);
    assert.equal(error.data.error.code, 'model_not_found');
    return {};
  },

  async refused_by_the_engine(fetch) {
    const error = await refusal(read({ model: provider(fetch)('refuses') }));
    assert.deepEqual([error.statusCode, error.message], [400, 'too long']);
    return {};
  },

  async spent_budget(fetch) {
    const options = { maxOutputTokens: 100, maxRetries: 2 };
    const error = await refusal(generate(fetch, 'dear', options));
    assert.deepEqual([error.statusCode, error.isRetryable], [402, false]);
    assert.equal(JSON.parse(error.responseBody).error.limit.name, 'dear');
    return {};
  },

  async reached_rate(fetch) {
    const error = await refusal(generate(fetch, 'rated'));
    assert.deepEqual([error.statusCode, error.isRetryable], [429, true]);
    assert.equal(error.responseHeaders['x-ratelimit-limit-requests'], '0');
    return {};
  },

  repeats_429: (fetch) => repeated(fetch, 'flaky-429'),
  repeats_500: (fetch) => repeated(fetch, 'flaky-500'),
  repeats_503: (fetch) => repeated(fetch, 'flaky-503'),

  async leaves_a_stream(fetch) {
    const stop = new AbortController();
    const model = provider(fetch)('long');
    const result = streamText({ model, prompt, maxRetries: 0, abortSignal: stop.signal });
    let left = 0;
    for await (const piece of result.textStream) {
      left += piece.length / ' w'.length;
      if (left >= 20) stop.abort();
    }
    return { left };
  },

  async times_out(fetch) {
    const abortSignal = AbortSignal.timeout(200);
    const error = await refusal(generate(fetch, 'slow', { abortSignal }));
    assert.equal(error.name, 'TimeoutError');
    return { gone: true };
  },
};
