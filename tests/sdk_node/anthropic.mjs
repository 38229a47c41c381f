// Flows of the `@anthropic-ai/sdk` package.

import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import { key, messages, ofMessage, proxy, refusal } from './world.mjs';

const tools = [{ name: 'weather', input_schema: { type: 'object', properties: {} } }];

const client = (fetch, options = {}) =>
  new Anthropic({ apiKey: key, baseURL: proxy, maxRetries: 0, fetch, ...options });

const body = (model, members = {}) => ({ model, max_tokens: 9, messages, ...members });

async function repeated(fetch, model) {
  const answer = await client(fetch, { maxRetries: 3 }).messages.create(body(model));
  return { told: ofMessage(answer.usage) };
}

export const flows = {
  async whole(fetch) {
    const answer = await client(fetch).messages.create(body('plain'));
    assert.equal(answer.content[0].text, 'hello');
    return { told: ofMessage(answer.usage) };
  },

  async stream(fetch) {
    const stream = client(fetch).messages.stream(body('plain'));
    const text = [];
    stream.on('text', (piece) => text.push(piece));
    const final = await stream.finalMessage();
    assert.equal(text.join(''), ' 0 1 2 3 4');
    return { told: ofMessage(final.usage) };
  },

  async tools_in_a_stream(fetch) {
    const stream = client(fetch).messages.stream(body('tools', { tools }));
    const final = await stream.finalMessage();
    assert.equal(final.stop_reason, 'tool_use');
    assert.deepEqual(final.content[0].input, { city: 'Köln' });
    return { told: ofMessage(final.usage) };
  },

  async count_tokens(fetch) {
    const counted = await client(fetch).messages.countTokens({ model: 'plain', messages });
    assert.equal(counted.input_tokens, 14);
    return {};
  },

  async wrong_key(fetch) {
    const asked = client(fetch, { apiKey: 'sk-sy-wrong' }).messages.create(body('plain'));
    assert.ok((await refusal(asked)) instanceof Anthropic.AuthenticationError);
    return {};
  },

  async unknown_model(fetch) {
    const error = await refusal(client(fetch).messages.create(body('nobody')));
    assert.ok(error instanceof Anthropic.NotFoundError);
    return {};
  },

  async refused_by_the_engine(fetch) {
    const error = await refusal(client(fetch).messages.create(body('refuses')));
    assert.ok(error instanceof Anthropic.BadRequestError);
    assert.equal(error.error.error.message, 'too long');
    return {};
  },

  async spent_budget(fetch) {
    const asked = client(fetch, { maxRetries: 2 }).messages.create(body('dear'));
    const error = await refusal(asked);
    assert.equal(error.status, 402);
    assert.equal(error.error.error.type, 'billing_error');
    assert.equal(error.error.error.limit.name, 'dear');
    assert.equal(error.error.request_id, error.headers.get('x-steelyard-request-id'));
    return {};
  },

  async reached_rate(fetch) {
    const error = await refusal(client(fetch).messages.create(body('rated')));
    assert.ok(error instanceof Anthropic.RateLimitError);
    assert.equal(error.error.error.limit.limit, '0');
    assert.match(error.error.request_id, /^req_/);
    return {};
  },

  repeats_429: (fetch) => repeated(fetch, 'flaky-429'),
  repeats_500: (fetch) => repeated(fetch, 'flaky-500'),
  repeats_503: (fetch) => repeated(fetch, 'flaky-503'),

  async leaves_a_stream(fetch) {
    const stream = client(fetch).messages.stream(body('long', { max_tokens: 4000 }));
    let left = 0;
    for await (const event of stream) {
      left += event.type === 'content_block_delta' ? 1 : 0;
      if (left === 20) break;
    }
    return { left };
  },

  async times_out(fetch) {
    const asked = client(fetch, { timeout: 200 }).messages.create(body('slow'));
    const error = await refusal(asked);
    assert.ok(error instanceof Anthropic.APIConnectionTimeoutError);
    return { gone: true };
  },
};
