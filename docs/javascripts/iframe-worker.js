// Search runs in a web worker, and browsers refuse workers on pages that are opened from the disk. There the
// worker's script runs in a hidden frame instead. Elsewhere nothing changes.
class FrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inside = this.frame.contentWindow;
    // What a worker's script finds in its global scope.
    inside.postMessage = (data) => {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    };
    inside.importScripts = (...urls) =>
      urls.reduce((before, one) => before.then(() => this.load(one)), Promise.resolve());
    this.ready = this.load(url);
  }

  load(url) {
    const script = this.frame.contentDocument.createElement("script");
    script.src = new URL(url, location).href;
    const loaded = new Promise((done, failed) => {
      script.onload = done;
      script.onerror = () => failed(new Error(`cannot load ${script.src}`));
    });
    this.frame.contentDocument.body.append(script);
    return loaded;
  }

  postMessage(data) {
    const inside = this.frame.contentWindow;
    this.ready.then(() => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") {
  window.Worker = FrameWorker;
}
