/** What this page's own server, or folder, is asked. */

let token = "";

/** Send this token from now on. */
export function useToken(given) {
  token = given;
}

/** An answer that is no success; `status` is HTTP's. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Ask for a place beside the page; throw a Refusal where the answer is no success. */
export async function ask(place, options = {}) {
  const headers = authorisation();
  let response;
  try {
    response = await fetch(place, { ...options, headers });
  } catch {
    throw new Error("the server cannot be reached; see that it runs, and load this page again");
  }
  if (!response.ok) throw new Refusal(response.status, await reasonOf(response));
  return response;
}

function authorisation() {
  try {
    return new Headers(token ? { Authorization: `Bearer ${token}` } : {});
  } catch {
    throw new Error("token: holds a letter that no header can hold; enter it again");
  }
}

async function reasonOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status} ${response.statusText}`;
  }
}
