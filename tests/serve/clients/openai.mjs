// A conversation of six turns with the openai client, streamed, with tools.  node openai.mjs URL SCRIPT
import OpenAI from "openai";

const [url, script] = process.argv.slice(2);
const { model, tools, shots, questions, result } = JSON.parse(script);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [...shots];
const turns = [];
for (let i = 0; i < questions.length || messages.at(-1).role === "tool"; ) {
  if (messages.at(-1).role !== "tool") messages.push({ role: "user", content: questions[i++] });
  const answer = { role: "assistant", content: "" };
  const calls = [];
  let finish = null, usage = null, chunks = 0;
  const stream = await client.chat.completions.create({
    model, messages, stream: true, stream_options: { include_usage: true }, temperature: 0,
    ...(messages.at(-1).role === "user" && i === 1
      ? { tools, tool_choice: "required", max_tokens: 60 } : { max_tokens: 16 }),
  });
  for await (const chunk of stream) {
    chunks++;
    if (chunk.usage) usage = chunk.usage;
    const choice = chunk.choices[0];
    if (!choice) continue;
    answer.content += choice.delta.content ?? "";
    for (const call of choice.delta.tool_calls ?? []) {
      const whole = (calls[call.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
      whole.id ||= call.id ?? "";
      whole.function.name += call.function?.name ?? "";
      whole.function.arguments += call.function?.arguments ?? "";
    }
    finish = choice.finish_reason ?? finish;
  }
  if (calls.length) answer.tool_calls = calls;
  messages.push(answer);
  turns.push({ finish, chunks, usage: usage?.total_tokens ?? 0, calls: calls.length });
  for (const call of calls) messages.push({ role: "tool", tool_call_id: call.id, content: result });
}
console.log(JSON.stringify({ turns, messages: messages.slice(shots.length) }));
