new EventSource("/stream").addEventListener("status", (event) => { document.getElementById("status").textContent = event.data; });
