// A conversation with the openai client on responses.  node with_openai_responses.mjs URL SCRIPT
import OpenAI from "openai";

const [url, script] = process.argv.slice(2);
const { system, tool, questions, result } = JSON.parse(script);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const tools = [{ type: "function", strict: false, ...tool }];
let input = [];
const answers = [];
for (const [number, question] of questions.entries()) {
  input.push({ role: "user", content: question });
  for (;;) {
    const asked = { model: "gpt-4o", instructions: system, input, tools };
    const done = await (number % 2
      ? client.responses.stream(asked).finalResponse()
      : client.responses.create(asked));
    const calls = done.output.filter((item) => item.type === "function_call");
    input = [...input, ...done.output.map(({ parsed_arguments, ...item }) => item)];
    for (const call of calls) input.push({ type: "function_call_output", call_id: call.call_id, output: result });
    if (calls.length) continue;
    answers.push(done.output_text);
    break;
  }
}
console.log(JSON.stringify(answers));
