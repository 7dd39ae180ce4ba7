// The same conversation with OpenClaw's client.  node pi-ai.mjs URL SCRIPT
import { stream } from "@mariozechner/pi-ai";

const [url, script] = process.argv.slice(2);
const { model: id, tools, shots, questions, result } = JSON.parse(script);
const free = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 };
const model = {
  id, name: id, api: "openai-completions", provider: "local", baseUrl: `${url}/v1`, reasoning: false, input: ["text"],
  cost: free, contextWindow: 2048, maxTokens: 512,
};
const zero = { ...free, totalTokens: 0, cost: { ...free, total: 0 } };
const said = (content) => ({
  role: "assistant", content, api: model.api, provider: model.provider, model: id, usage: zero, stopReason: "stop",
  timestamp: 1,
});
const context = { messages: [], tools: tools.map((t) => t.function) };
for (const shot of shots) {
  if (shot.role === "user") context.messages.push({ role: "user", content: shot.content, timestamp: 1 });
  else if (shot.role === "tool")
    context.messages.push({
      role: "toolResult", toolCallId: shot.tool_call_id, toolName: "get_weather", isError: false, timestamp: 1,
      content: [{ type: "text", text: shot.content }],
    });
  else if (shot.tool_calls)
    context.messages.push(said(shot.tool_calls.map((c) => ({
      type: "toolCall", id: c.id, name: c.function.name, arguments: JSON.parse(c.function.arguments),
    }))));
  else context.messages.push(said([{ type: "text", text: shot.content }]));
}
const turns = [];
for (let i = 0; i < questions.length || context.messages.at(-1).role === "toolResult"; ) {
  if (context.messages.at(-1).role !== "toolResult")
    context.messages.push({ role: "user", content: questions[i++], timestamp: 1 });
  const { tools: offered, ...plain } = context;
  const first = i === 1 && context.messages.at(-1).role === "user";
  const asked = first ? { toolChoice: "required", maxTokens: 60 } : { maxTokens: 16 };
  const options = { apiKey: "none", temperature: 0, ...asked };
  const answering = stream(model, first ? context : plain, options);
  let chunks = 0;
  for await (const event of answering) chunks++;
  const answer = await answering.result();
  if (answer.stopReason === "error") throw new Error(answer.errorMessage);
  context.messages.push(answer);
  const calls = answer.content.filter((part) => part.type === "toolCall");
  turns.push({ finish: answer.stopReason, chunks, usage: answer.usage.totalTokens, calls: calls.length });
  for (const call of calls)
    context.messages.push({
      role: "toolResult", toolCallId: call.id, toolName: call.name, isError: false, timestamp: 1,
      content: [{ type: "text", text: result }],
    });
}
console.log(JSON.stringify({ turns, messages: context.messages.slice(shots.length) }));
