// The same with the AI SDK: its `openai` provider as it comes, or the compatible one.  node … URL SCRIPT…
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool as make } from "ai";

const [url, ...scripts] = process.argv.slice(2);
for (const script of scripts) {
  const { system, tool, questions, result, way } = JSON.parse(script);
  const where = { baseURL: `${url}/v1`, apiKey: "none", name: "local" };
  const provider = way === "compatible" ? createOpenAICompatible(where) : createOpenAI(where);
  const get_weather = make({
    description: tool.description, inputSchema: jsonSchema(tool.parameters), execute: async () => result,
  });
  let messages = [];
  const answers = [];
  for (const [number, question] of questions.entries()) {
    messages.push({ role: "user", content: question });
    const asked = {
      model: provider("gpt-4o"), system, messages, tools: { get_weather }, stopWhen: stepCountIs(3), maxRetries: 0,
    };
    const onError = ({ error }) => { throw error; };
    const done = number % 2 ? streamText({ ...asked, onError }) : await generateText(asked);
    if (number % 2) for await (const part of done.fullStream) if (part.type === "error") throw part.error;
    messages = [...messages, ...(await done.responseMessages)];
    answers.push(await done.text);
  }
  console.log(JSON.stringify(answers));
}
