// Flows of the `openai` package.

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { key, messages, ofChat, ofResponse, proxy, refusal } from './world.mjs';

const tools = [
  {
    type: 'function',
    function: {
      name: 'weather',
      parameters: { type: 'object', properties: { city: { type: 'string' } } },
    },
  },
];

const client = (fetch, options = {}) =>
  new OpenAI({ apiKey: key, baseURL: `${proxy}/v1`, maxRetries: 0, fetch, ...options });

const asking = (fetch, model, options = {}, members = {}) =>
  client(fetch, options).chat.completions.create({ model, messages, ...members });

async function repeated(fetch, model) {
  const answer = await asking(fetch, model, { maxRetries: 3 });
  return { told: ofChat(answer.usage) };
}

export const flows = {
  async whole(fetch) {
    const { data, response } = await asking(fetch, 'plain').withResponse();
    assert.equal(data.choices[0].message.content, 'hello');
    assert.match(response.headers.get('x-steelyard-request-id'), /^req_[0-9a-f]{32}$/);
    return { told: ofChat(data.usage) };
  },

  async stream_with_usage(fetch) {
    const options = { stream: true, stream_options: { include_usage: true } };
    const chunks = [];
    for await (const chunk of await asking(fetch, 'plain', {}, options)) chunks.push(chunk);
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
    assert.equal(text, ' 0 1 2 3 4');
    assert.deepEqual(
      chunks.map((chunk) => Boolean(chunk.usage)),
      chunks.map((_, number) => number === chunks.length - 1),
    );
    return { told: ofChat(chunks.at(-1).usage) };
  },

  async stream_without_usage(fetch) {
    const chunks = [];
    for await (const chunk of await asking(fetch, 'plain', {}, { stream: true })) {
      assert.equal(chunk.choices.length, 1);
      assert.ok(!chunk.usage);
      chunks.push(chunk);
    }
    assert.equal(chunks.length, 6);
    return { told: { input: 7, cached_input: 4, output: 5 } };
  },

  async tools_in_a_stream(fetch) {
    const stream = client(fetch).chat.completions.stream({
      model: 'tools',
      messages,
      tools,
      stream_options: { include_usage: true },
    });
    const final = await stream.finalChatCompletion();
    const [call] = final.choices[0].message.tool_calls;
    assert.equal(call.function.name, 'weather');
    assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Köln' });
    return { told: ofChat(final.usage) };
  },

  async structured_output(fetch) {
    const format = zodResponseFormat(z.object({ name: z.string() }), 'city');
    const body = { model: 'json', messages, response_format: format };
    const answer = await client(fetch).chat.completions.parse(body);
    assert.deepEqual(answer.choices[0].message.parsed, { name: 'Köln' });
    return { told: ofChat(answer.usage) };
  },

  async responses(fetch) {
    const body = { model: 'plain', input: 'hi', store: false };
    const answer = await client(fetch).responses.create(body);
    assert.equal(answer.status, 'completed');
    return { told: ofResponse(answer.usage) };
  },

  async responses_stream(fetch) {
    const body = { model: 'plain', input: 'hi', store: false, stream: true };
    const seen = [];
    for await (const event of await client(fetch).responses.create(body)) seen.push(event);
    assert.equal(seen.filter((event) => event.type === 'response.output_text.delta').length, 5);
    assert.equal(seen.at(-1).type, 'response.completed');
    return { told: ofResponse(seen.at(-1).response.usage) };
  },

  async embeddings(fetch) {
    // It asks for base64 by itself and decodes what it gets.
    const answer = await client(fetch).embeddings.create({ model: 'embed', input: ['a'] });
    assert.deepEqual([...answer.data[0].embedding], [0.5, -2]);
    return { told: ofChat(answer.usage) };
  },

  async models(fetch) {
    const names = [];
    for await (const model of client(fetch).models.list()) names.push(model.id);
    assert.ok(names.includes('plain') && names.includes('embed'));
    assert.equal((await client(fetch).models.retrieve('plain')).id, 'plain');
    return {};
  },

  async wrong_key(fetch) {
    const error = await refusal(asking(fetch, 'plain', { apiKey: 'sk-sy-wrong' }));
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.equal(error.code, 'invalid_api_key');
    return {};
  },

  async unknown_model(fetch) {
    const error = await refusal(asking(fetch, 'nobody'));
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'model_not_found');
    return {};
  },

  async unknown_member(fetch) {
    const error = await refusal(asking(fetch, 'plain', {}, { mine: 1 }));
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.code, error.param], ['unsupported_parameter', 'mine']);
    return {};
  },

  async refused_by_the_engine(fetch) {
    const error = await refusal(asking(fetch, 'refuses'));
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.error.message, 'too long');
    return {};
  },

  async spent_budget(fetch) {
    const error = await refusal(asking(fetch, 'dear', { maxRetries: 2 }, { max_tokens: 100 }));
    assert.deepEqual([error.status, error.code], [402, 'insufficient_quota']);
    assert.deepEqual(
      [error.error.limit.name, error.error.limit.unit, error.error.limit.limit],
      ['dear', 'money', '0.000001'],
    );
    assert.equal(error.requestID, null);
    assert.match(error.headers.get('x-steelyard-request-id'), /^req_/);
    return {};
  },

  async reached_rate(fetch) {
    const error = await refusal(asking(fetch, 'rated'));
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.code, 'rate_limit_exceeded');
    assert.equal(error.headers.get('x-ratelimit-limit-requests'), '0');
    assert.equal(error.headers.get('retry-after'), null); // of a limit of none, waiting brings none
    return {};
  },

  repeats_429: (fetch) => repeated(fetch, 'flaky-429'),
  repeats_500: (fetch) => repeated(fetch, 'flaky-500'),
  repeats_503: (fetch) => repeated(fetch, 'flaky-503'),

  async leaves_a_stream(fetch) {
    const stop = new AbortController();
    const signal = { signal: stop.signal };
    const body = { model: 'long', messages, stream: true };
    let left = 0;
    for await (const chunk of await client(fetch).chat.completions.create(body, signal)) {
      left += chunk.choices.length;
      if (left === 20) stop.abort();
    }
    return { left };
  },

  async breaks_out_of_a_stream(fetch) {
    let left = 0;
    for await (const _ of await asking(fetch, 'long', {}, { stream: true })) {
      left += 1;
      if (left === 20) break;
    }
    return { left };
  },

  async leaves_before_the_first_byte(fetch) {
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 200);
    const signal = { signal: stop.signal };
    const body = { model: 'slow', messages };
    const error = await refusal(client(fetch).chat.completions.create(body, signal));
    assert.ok(error instanceof OpenAI.APIUserAbortError);
    return { gone: true };
  },

  async times_out(fetch) {
    const error = await refusal(asking(fetch, 'slow', { timeout: 200 }));
    assert.ok(error instanceof OpenAI.APIConnectionTimeoutError);
    return { gone: true };
  },
};
