"""The service behind `tmr serve`: lanes of work, limits, the API, the page. The pieces, in order:

http         bytes of a client to a request, and an end to clients that dawdle
middleware   who may ask, how often and how much; headers; one shape for every error
app          the routes: API and page
schemas      what the API takes and gives
form         the page's query: from an address to a question, and back
engine       the model, the library and the drawings, worked off by lanes
batcher      a thread with a bounded queue
"""
