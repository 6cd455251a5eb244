"""CSS of the page, for widths from 420 pixels on."""

STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.gradio-container header h1 { font-size: 1.7rem; margin: 0.4rem 0 0.2rem; }
.gradio-container header p { margin: 0.1rem 0; line-height: 1.45; }
.gradio-container .faint { opacity: 0.7; font-size: 0.9rem; }
.gradio-container .section h2 { font-size: 1.2rem; margin: 0.6rem 0 0; }
.gradio-container p.status, .gradio-container p.alert {
  margin: 0; padding: 0.5rem 0.75rem; border-radius: 6px; border-left: 4px solid; line-height: 1.4;
  overflow-wrap: anywhere;
}
.gradio-container p.status { border-color: #14b8a6; background: rgb(20 184 166 / 12%); }
.gradio-container p.alert { border-color: #dc2626; background: rgb(220 38 38 / 12%); }
#notice, #warning, #numbers, #change, .section { padding: 0 !important; }
#video video { max-height: 300px; }
#overlay video, #swapped video { max-height: 420px; }
#overlay { min-height: 260px; }
#numbers p { margin: 0; line-height: 1.45; }
#still img { width: 100%; max-height: 420px; object-fit: contain; }
#own img, #other img { width: 100%; max-height: 260px; object-fit: contain; }
#change table { width: 100%; border: 0 !important; border-collapse: collapse; font-size: 0.92rem; }
#change th, #change td {
  padding: 0.3rem 0.4rem; text-align: right; border: 0 !important; overflow-wrap: break-word;
  border-bottom: 1px solid rgb(128 128 128 / 30%) !important;
}
#change td { white-space: nowrap; }
#change th[scope="row"], #change tr > th:first-child { text-align: left; font-weight: 400; }
"""
